"""Prunes again and again: what is due, every interval; everything, slowly, by whichever worker holds the lease."""

from __future__ import annotations

import os
import socket
from typing import Any

import mode

from stream_cache.errors import StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.store.pruning import PAGE_COUNT, SCANNED
from stream_cache.store.store import Store

#: A scan ends within 8 of the contract's 10 minutes, up to a million devices; a small one does not hurry.
_SCAN_S, _MOST_DEVICES = 480.0, 1_000_000
_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S = 0.1, _SCAN_S / (len(SCANNED) * _MOST_DEVICES / PAGE_COUNT)


class Pruner(mode.Service):
    """Prunes every `interval_s`; between two rounds any other worker may take over."""

    def __init__(self, store: Store, metrics: Metrics, *, interval_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store, self._metrics, self._interval_s = store, metrics, interval_s
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{id(self)}"

    @mode.Service.task
    async def _prune_again_and_again(self) -> None:
        while not self.should_stop:
            try:
                if await self._prune_due():
                    await self._scan()
            except StoreUnavailable as error:
                self.log.warning("the index of devices could not be pruned, trying again: %s", error)
            await self.sleep(self._interval_s)

    async def _prune_due(self) -> bool:
        """Take out what is due. Returns: whether it is this worker that prunes."""
        if not await self._store.pruning.take_lease(self._owner, self._interval_s):
            return False
        self._metrics.pruned(await self._store.pruning.prune_due())
        return True

    async def _scan(self) -> None:
        """Compare everything with everything, a page at a time; what becomes due meanwhile is taken out beside."""
        pruning = self._store.pruning
        pages = max(1.0, len(SCANNED) * await self._store.count_devices() / PAGE_COUNT)
        pause_s = max(_SHORTEST_PAUSE_S, min(_LONGEST_PAUSE_S, _SCAN_S / pages))
        due_at_s = self.loop.time() + self._interval_s
        for key in SCANNED:
            position = b""
            while not self.should_stop:
                _, position = await pruning.scan(key, position)
                if not position:
                    break
                await self.sleep(pause_s)
                if self.loop.time() >= due_at_s:
                    due_at_s = self.loop.time() + self._interval_s
                    if not await self._prune_due():
                        return
