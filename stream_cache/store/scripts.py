"""The scripts beside this file, as Redis runs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError


class Script:
    """A script beside this file, called by its digest and loaded where Redis doesn't know it (any more)."""

    def __init__(self, *names: str) -> None:
        self._source = "".join(files(__package__).joinpath(name).read_text(encoding="utf-8") for name in names)
        self._digest: str | None = None

    async def call(self, client: redis.Redis, calls: Sequence[bytes | tuple[bytes | int, ...]]) -> list[Any]:
        """Call it once for each element, all in one pipeline: an element is the call's argument, or its arguments."""
        for has_loaded in (False, True):
            if self._digest is None:
                self._digest = await client.script_load(self._source)
            pipeline = client.pipeline(transaction=False)
            for arguments in calls:
                pipeline.evalsha(self._digest, 0, *(arguments if isinstance(arguments, tuple) else (arguments,)))
            replies = await pipeline.execute(raise_on_error=False)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                return replies
            if has_loaded or not all(isinstance(error, NoScriptError) for error in errors):
                raise errors[0]
            self._digest = None  # Redis was restarted, or somebody said SCRIPT FLUSH
        raise AssertionError  # pragma: no cover - the second round returns or raises
