"""A store on some kind of Redis, and a look at that Redis from outside."""

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import redis

from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Latest, Reading
from stream_cache.settings import RedisSettings
from stream_cache.store.pruning import SCANNED
from stream_cache.store.store import Store
from tests import oracle
from tests.fakes import decoded, json_record
from tests.services.redis_kinds import RedisKind

T = TypeVar("T")
TTL_S = 86_400
DAY_MS = 86_400_000
#: When the records of these tests came into Kafka: 10 minutes ago.
BASE_MS = int(time.time() * 1000) - 600_000
NO_LIMIT_S = 10.0**7


class Bench:
    """A store on an emptied Redis, its loop, and clients that look at it from outside."""

    def __init__(self, kind: RedisKind, ttl_s: int = TTL_S, **environ: str) -> None:
        self.kind = kind
        self.runner = asyncio.Runner()
        self.masters = kind.masters()
        self.stores: list[Store] = []
        self.empty()
        self.store = self.store_with(ttl_s, **environ)

    def store_with(self, ttl_s: int, **environ: str) -> Store:
        settings = RedisSettings.from_env({**self.kind.env(), "REDIS_METADATA_TTL": str(ttl_s), **environ})
        self.stores.append(Store(settings))
        return self.stores[-1]

    def close(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.runner.close()
        for client in self.masters:
            client.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    # ---- the store

    def put(self, records: Sequence[oracle.Record], store: Store | None = None) -> PutResult:
        """Flush records as one window: the latest event of each device, and when it was last seen."""
        return self.run((store or self.store).put_latest(merged(records)))

    def get(self, device_id: str) -> dict[str, Any] | None:
        (found,) = self.get_many([device_id])
        return found

    def get_many(self, device_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Look devices up, as the objects that HTTP answers."""
        return [
            device
            and {
                "device_id": device.device_id,
                **{k: shown(v) for k, v in device.fields.items()},
                "last_updated": device.last_updated,
            }
            for device in self.run(self.store.get_many(device_ids))
        ]

    def all_ids(self, limit: int = 1000) -> list[str]:
        ids: list[str] = []
        cursor = None
        while True:
            page = self.run(self.store.list_devices(limit, cursor))
            ids += page.device_ids
            cursor = page.next_cursor
            if cursor is None:
                return ids

    def scan(self) -> int:
        """Compare everything with everything, once. Returns: how many were put right."""
        count = 0
        for key in SCANNED:
            more, position = self.run(self.store.pruning.scan(key, b""))
            count += more
            while position:
                more, position = self.run(self.store.pruning.scan(key, position))
                count += more
        return count

    # ---- Redis, from outside

    def at(self, key: str) -> redis.Redis:
        """Return a client of the master that has a key, or would have it."""
        for client in self.masters:
            try:
                client.exists(key)
            except redis.ResponseError as error:
                if not str(error).startswith(("MOVED", "ASK")) and not hasattr(error, "slot_id"):
                    raise
            else:
                return client
        raise AssertionError(key)

    def empty(self) -> None:
        for client in self.masters:
            client.flushdb()

    def members(self) -> set[str]:
        found: Any = self.at("devices").smembers("devices")
        return {device_id.decode() for device_id in found}

    def zset(self, name: str) -> dict[str, float]:
        key = f"stream_cache:{{devices}}:{name}"
        found: Any = self.at(key).zrange(key, 0, -1, withscores=True)
        return {device_id.decode(): score for device_id, score in found}

    def hash_of(self, device_id: str) -> dict[str, str]:
        key = f"device:{device_id}:metadata"
        found: Any = self.at(key).hgetall(key)
        return {name.decode(): text.decode() for name, text in found.items()}

    def forget(self, *device_ids: str) -> None:
        """Delete hashes by hand."""
        for device_id in device_ids:
            key = f"device:{device_id}:metadata"
            self.at(key).delete(key)

    def set_by_hand(self, device_id: str, fields: Mapping[Any, Any]) -> None:
        key = f"device:{device_id}:metadata"
        self.at(key).hset(key, mapping={**fields})

    def deadline_ms(self, device_id: str) -> int | None:
        key = f"device:{device_id}:metadata"
        left_ms: Any = self.at(key).pttl(key)
        return None if left_ms == -1 else int(time.time() * 1000) + left_ms

    def contents(self) -> dict[bytes, Any]:
        """Return every key's value, bookkeeping too."""
        return {key: self._value(client, key) for client in self.masters for key in client.scan_iter(count=1000)}

    @staticmethod
    def _value(client: redis.Redis, key: bytes) -> Any:
        match client.type(key):
            case b"hash":
                return client.hgetall(key)
            case b"set":
                return client.smembers(key)
            case b"zset":
                return client.zrange(key, 0, -1, withscores=True)
            case _:
                return client.get(key)

    def assert_holds(self, state: oracle.State) -> None:
        """Hold Redis against the oracle: hashes, deadlines, `devices`, and the index beside it."""
        hashes: dict[bytes, Any] = {}
        deadlines: dict[bytes, Any] = {}
        for client in self.masters:
            some, their_deadlines = oracle._read_hashes(client)
            hashes.update(some)
            deadlines.update(their_deadlines)
        members: Any = self.at("devices").smembers("devices")
        differences = [
            *oracle._hash_differences(state, hashes),
            *oracle._deadline_differences(state, deadlines),
            *oracle._set_differences(state, members),
        ]
        assert differences == []
        assert self.zset("ids") == dict.fromkeys(state.devices, 0.0)
        assert self.zset("seen").keys() == state.devices


def merged(records: Sequence[oracle.Record]) -> list[Reading]:
    """Return the latest event of each device."""
    chunk = decoded(records, NO_LIMIT_S)
    assert not chunk.bad
    latest = Latest()
    latest.merge([*chunk.readings, *chunk.tombstones])
    return list(latest.by_device.values())


def shown(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.loads(bytes(value))


def tombstone_of(device_id: str, *, offset: int, partition: int = 0, timestamp_ms: int = BASE_MS) -> oracle.Record:
    return oracle.Record(partition, offset, timestamp_ms, device_id.encode(), None)


def record_of(
    device_id: str, *, offset: int, partition: int = 0, timestamp_ms: int = BASE_MS, **kwargs: Any
) -> oracle.Record:
    return json_record(device_id, offset=offset, partition=partition, timestamp_ms=timestamp_ms, **kwargs)
