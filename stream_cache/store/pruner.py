"""Keeps `devices` and the index honest: takes out the ids whose hash is gone, puts in what one of the two lacks.

Redis says nothing reliable of an expiry. A hash that has little time left is noted (expiring.lua), and looked at when
that is over. To notice the others, and what was deleted by hand, the whole index is walked, page by page, slowly: it is
in the order of hashes, so each look goes to another corner of Redis's memory (5 us a device of a million). Then the
whole set `devices` is, where somebody may have added ids, and which has those that the index has lost (three times as
dear). Of all workers one does it: whoever holds a lease in Redis.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import mode

from stream_cache.errors import StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.store.store import Store

_PAGE_COUNT = 250
#: Between two pages: 5,000 ids a second, which cost Redis 2 % of its time for the index and 6 % for `devices`.
_PAUSE_S = 0.05
#: The longest that both walks take, however many devices: each must be looked at within the 10 minutes for which
#: deadlines are noted.
_LONGEST_WALK_S = 480.0
#: After a time without walks, deadlines may have passed that nobody noted: 100,000 ids a second, then.
_PAUSE_WHEN_LATE_S = 0.0025
#: A walk that ended longer ago is one too long ago: the next one begins within two intervals, of 20 s at most.
_LATE_AFTER_S = 60.0
#: An outage of Redis is not an interval long.
_RETRY_S = 2.0

_PrunePage = Callable[[bytes, int], Awaitable[tuple[int, bytes]]]


class Pruner(mode.Service):
    """Looks every `interval_s`, at least, for ids whose hash has expired, and walks the whole index again and again."""

    def __init__(self, store: Store, metrics: Metrics, *, interval_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store, self._metrics, self._interval_s = store, metrics, interval_s
        self._owner = f"{socket.gethostname()}:{os.getpid()}"

    @mode.Service.task
    async def _prune_again_and_again(self) -> None:
        while not self.should_stop:
            try:
                if await self._store.take_prune_lease(self._owner, self._interval_s):
                    await self._walk()
                pause_s = self._interval_s
            except StoreUnavailable:  # whoever calls Redis says it
                pause_s = min(self._interval_s, _RETRY_S)
            await self.sleep(pause_s)

    async def _walk(self) -> None:
        pause_s = await self._pause_s()
        is_late = not await self._store.has_walked()
        await self._go_through(self._store.prune, _PAUSE_WHEN_LATE_S if is_late else pause_s)
        await self._go_through(self._store.heal, pause_s)

    async def _pause_s(self) -> float:
        pages = 2 * await self._store.count_devices() / _PAGE_COUNT
        return min(_PAUSE_S, _LONGEST_WALK_S / pages) if pages else _PAUSE_S

    async def _go_through(self, prune_page: _PrunePage, pause_s: float) -> None:
        place, due_s = b"", time.monotonic()
        while not self.should_stop:
            await self._prune_expired()
            removed_count, place = await prune_page(place, _PAGE_COUNT)
            self._metrics.pruned(removed_count)
            if not place:
                await self._store.note_walk(_LATE_AFTER_S)
                return
            await self._store.keep_prune_lease(self._interval_s)
            due_s += pause_s
            await self.sleep(max(0.0, due_s - time.monotonic()))

    async def _prune_expired(self) -> None:
        while not self.should_stop:
            removed_count, looked_at = await self._store.prune_expired(_PAGE_COUNT)
            self._metrics.pruned(removed_count)
            if looked_at < _PAGE_COUNT:
                return
            await self.sleep(_PAUSE_WHEN_LATE_S)
