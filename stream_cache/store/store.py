"""The latest metadata of every device, in Redis: all that the rest of the service sees of it."""

from __future__ import annotations

from collections.abc import Sequence

from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Reading
from stream_cache.settings import RedisSettings
from stream_cache.store import keys
from stream_cache.store.completeness import Completeness
from stream_cache.store.connection import Connection
from stream_cache.store.devices import Devices
from stream_cache.store.hashes import Device
from stream_cache.store.index import LOOKUP_TIMEOUT_S, Index, Page
from stream_cache.store.lookups import Lookups
from stream_cache.store.node import Lane
from stream_cache.store.pruning import Pruning
from stream_cache.store.scripts import Call
from stream_cache.store.server_check import check_servers

#: A device's last seen may trail by this part of OFFLINE_AFTER_S (the contract, section 2), and by no more than 30 s.
_SKIP_PART, _SKIP_AT_MOST_S = 0.1, 30.0


class Store:
    """Written by the flush, read by the views, pruned by whichever worker holds the lease."""

    def __init__(self, settings: RedisSettings) -> None:
        self._timeout_s = timeout_s = 4 * settings.timeout_s
        ttl_ms = settings.metadata_ttl_s * 1000
        skip_s = min(_SKIP_AT_MOST_S, _SKIP_PART * settings.offline_after_s)
        self._connection = Connection(settings)
        self._index = Index(self._connection, timeout_s=timeout_s, skip_s=skip_s)
        self._devices = Devices(self._connection, self._index, ttl_ms=ttl_ms, timeout_s=timeout_s)
        self._lookups = Lookups(self._connection)
        self.pruning = Pruning(self._connection, self._index, ttl_ms=ttl_ms, timeout_s=timeout_s)
        self._completeness = Completeness(self._connection, timeout_s=timeout_s)

    async def check(self) -> Sequence[str]:
        """Check that Redis is what it must be. Returns: warnings. Raises: UnfitServer, StoreUnavailable."""
        return await check_servers(self._connection, timeout_s=self._timeout_s)

    async def put_latest(self, events: Sequence[Reading]) -> PutResult:
        """See `Devices.put_latest`."""
        return await self._devices.put_latest(events)

    async def get(self, device_id: str) -> Device | None:
        """See `Lookups.get`."""
        return await self._lookups.get(device_id)

    async def get_many(self, device_ids: Sequence[str]) -> list[Device | None]:
        """See `Lookups.get_many`."""
        return await self._lookups.get_many(device_ids)

    async def list_devices(self, limit: int, cursor: str | None) -> Page:
        """See `Index.list_devices`."""
        return await self._index.list_devices(limit, cursor)

    async def count_devices(self) -> int:
        """Return how many devices are held. Raises: StoreUnavailable."""
        return await self._index.count()

    async def get_state(self) -> str | None:
        """See `Completeness.get_state`."""
        return await self._completeness.get_state()

    async def set_state(self, state: str) -> None:
        """See `Completeness.set_state`."""
        await self._completeness.set_state(state)

    async def ping(self) -> None:
        """Raises: StoreUnavailable when Redis doesn't answer a lookup within 2.5 s."""
        await self._connection.run(
            [Call(keys.DEVICES, ("EXISTS", keys.DEVICES))], timeout_s=LOOKUP_TIMEOUT_S, lane=Lane.READ
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()
