"""REDIS_DURABILITY: wait until what was written is where it is to survive.

WAIT looks at the last write of its own connection. So it stands at the end of the pipeline that wrote, behind a write
of its own, which is there even where nothing else was written. By another connection it could ask another server: a new
master, that never saw what its predecessor acknowledged. Source: Redis manual, "WAIT" and "WAITAOF" (7.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from stream_cache.store import keys
from stream_cache.store.node import Command

_BARRIER_S = 60  # it has done its work when the answer to WAIT has come


class NotDurable(RedisError):
    """What was written may be lost yet; the same call again is harmless."""


class Durability:
    """How long a write is waited for: `none` for not at all, `replica` until one has it, `aof` until it is on disk."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._wait_ms = int(timeout_s * 800)  # the answer must come before the pipeline's time is over

    def commands(self, key: str | bytes) -> Sequence[Command]:
        """Return what a pipeline ends with that has written this key, or one of its slot."""
        if self._name == "none":
            return ()
        barrier: Command = ("SET", keys.barrier_key(key), "", "EX", _BARRIER_S)
        if self._name == "replica":
            return barrier, ("WAIT", 1, self._wait_ms)
        return barrier, ("WAITAOF", 1, 0, self._wait_ms)

    def check(self, replies: Sequence[Any]) -> None:
        """Judge the replies to these commands. Raises: NotDurable, or what Redis refused."""
        if self._name == "none":
            return
        barrier, counts = replies[-2:]
        if isinstance(barrier, Exception):
            raise barrier
        if isinstance(counts, Exception):
            needs = "REDIS_DURABILITY=aof needs Redis 7.2 or later with appendonly yes"
            raise NotDurable(f"{needs if self._name == 'aof' else 'REDIS_DURABILITY'}; it answers {str(counts)!r}")
        if (counts if self._name == "replica" else counts[0]) < 1:
            where = "at a replica" if self._name == "replica" else "in the append-only file"
            raise NotDurable(f"what was written is not yet {where} (REDIS_DURABILITY)")
