"""Keeps the index honest: takes out the ids whose hash has expired, or that somebody deleted by hand.

Redis says nothing reliable of an expiry, so the index is walked, page by page, all the time. Of all workers one does
it: whoever holds a lease in Redis.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import mode

from stream_cache.errors import StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.store import Store

_PAGE_COUNT = 500
#: Between two pages, so that pruning a million devices takes Redis a few seconds of every interval, not in one go.
_PAUSE_S = 0.002


class Pruner(mode.Service):
    """Walks the whole index every `interval_s`: well within the minute in which an id has to leave it."""

    def __init__(self, store: Store, metrics: Metrics, *, interval_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store, self._metrics, self._interval_s = store, metrics, interval_s
        self._owner = f"{socket.gethostname()}:{os.getpid()}"

    @mode.Service.task
    async def _prune_again_and_again(self) -> None:
        while not self.should_stop:
            try:
                if await self._store.take_prune_lease(self._owner, self._interval_s):
                    await self._prune()
            except StoreUnavailable as error:
                self.log.warning("the index of devices could not be pruned, trying again: %s", error)
            await self.sleep(self._interval_s)

    async def _prune(self) -> None:
        last = b""
        while not self.should_stop:
            removed_count, last = await self._store.prune(last, _PAGE_COUNT)
            self._metrics.pruned(removed_count)
            if not last:
                return
            await asyncio.sleep(_PAUSE_S)
