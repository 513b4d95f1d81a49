"""What tests of the store share: a store on a real Redis, its loop, and a view of that Redis from outside."""

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Latest
from stream_cache.settings import RedisSettings
from stream_cache.store.store import Store
from tests import oracle
from tests.fakes import decoded, json_record
from tests.harness import RedisDatabase

T = TypeVar("T")
TTL_S = 86_400
#: When the records of these tests came into Kafka: 10 minutes ago.
BASE_MS = int(time.time() * 1000) - 600_000
NO_LIMIT_S = 10.0**7


class Bench:
    """A store on a database, its loop, and a client that looks at the database from outside."""

    def __init__(
        self,
        database: RedisDatabase,
        ttl_s: int = TTL_S,
        *,
        empty: bool = True,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.database = database
        self.runner = asyncio.Runner()
        self.client = self.database.connect()
        if empty:
            self.client.flushdb()
        self.store = self.store_with(ttl_s, **environ)

    def store_with(self, ttl_s: int, **environ: str) -> Store:
        return Store.from_settings(
            RedisSettings.from_env({**self.database.env(), "REDIS_METADATA_TTL": str(ttl_s), **environ})
        )

    def close(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        self.client.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    def put(self, records: Sequence[oracle.Record], store: Store | None = None) -> PutResult:
        """Flush records as one window."""
        chunk = decoded(records, NO_LIMIT_S)
        assert not chunk.bad
        latest = Latest({}, {})
        latest.merge(chunk.readings, chunk.tombstones)
        return self.run((store or self.store).put_latest([*latest.readings.values()], [*latest.tombstones.values()]))

    def get(self, device_id: str) -> dict[str, Any] | None:
        (found,) = self.get_many([device_id])
        return found

    def get_many(self, device_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Look devices up, as the objects that HTTP answers."""
        found = self.run(self.store.get_many(device_ids))
        return [
            device
            and {
                "device_id": device.device_id,
                **{k: shown(v) for k, v in device.fields.items()},
                "last_updated": device.last_updated,
            }
            for device in found
        ]

    def contents(self) -> dict[bytes, Any]:
        """Return every key's value, bookkeeping fields too."""
        return {key: self._value(key) for key in self.client.scan_iter(count=1000)}

    def _value(self, key: bytes) -> Any:
        kind = self.client.type(key)
        if kind == b"hash":
            return self.client.hgetall(key)
        if kind == b"set":
            return self.client.smembers(key)
        if kind == b"zset":
            return self.client.zrange(key, 0, -1, withscores=True)
        return self.client.get(key)

    def deadline_ms(self, key: str) -> int | None:
        left_ms: Any = self.client.pttl(key)
        return None if left_ms == -1 else int(time.time() * 1000) + left_ms

    def all_ids(self, limit: int = 1000) -> list[str]:
        ids: list[str] = []
        cursor = None
        while True:
            page = self.run(self.store.list_devices(limit, cursor))
            ids += page.device_ids
            cursor = page.next_cursor
            if cursor is None:
                return ids

    def prune_all(self, count: int = 500) -> int:
        removed, last = self.run(self.store.prune(b"", count))
        while last:
            more, last = self.run(self.store.prune(last, count))
            removed += more
        return removed


def shown(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.loads(bytes(value))


def tombstone_record(device_id: str, *, offset: int, partition: int = 0, timestamp_ms: int = BASE_MS) -> oracle.Record:
    return oracle.Record(partition, offset, timestamp_ms, device_id.encode(), None)


def record_of(
    device_id: str, *, offset: int, partition: int = 0, timestamp_ms: int = BASE_MS, **kwargs: Any
) -> oracle.Record:
    return json_record(device_id, offset=offset, partition=partition, timestamp_ms=timestamp_ms, **kwargs)
