"""Calls to Redis: the scripts beside this file, and the time that a call may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError, RedisError

from stream_cache.errors import StoreUnavailable


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


async def within(timeout_s: float, call: Awaitable[Any]) -> Any:
    """Await a call to Redis for so long. Raises: StoreUnavailable for whatever redis-py or the clock says.

    The call runs in a task of its own that the clock doesn't wait for: redis-py sends by `asyncio.wait_for`, which on
    Python 3.11 may swallow a cancellation (python/cpython#86296), and with it a time limit set around it.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if done:
            return task.result()
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error
    finally:
        task.cancel()
    raise StoreUnavailable(f"Redis: no answer within {timeout_s:g} s")
