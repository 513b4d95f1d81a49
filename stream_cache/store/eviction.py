"""Warns of a Redis that throws hashes away when its memory is full: an older reading may then come back as if new."""

from __future__ import annotations

import asyncio

import mode

from stream_cache.errors import StoreUnavailable
from stream_cache.store.store import Store

_RETRY_S = 2.0
_logger = mode.get_logger(__name__)


async def warn_of_eviction(store: Store) -> None:
    """Say once, as soon as Redis can be asked, that its `maxmemory-policy` breaks what is promised."""
    while True:
        try:
            policy = await store.eviction_policy()
        except StoreUnavailable:  # the store says it
            await asyncio.sleep(_RETRY_S)
            continue
        if policy not in {None, "noeviction"}:
            _logger.warning(
                "Redis has maxmemory-policy %s: when its memory is full it evicts devices, and an older reading may"
                " come back as a device's latest. Set maxmemory-policy noeviction",
                policy,
            )
        return
