"""Redis: the only module that knows its keys.

Written by the flush, read by the views. Everything that must be atomic is a script beside this file; a script call
carries many devices in one MessagePack argument: packing that takes a twelfth of the time that one argument per field
takes (0.9 against 10.6 us a device, same script, redis-py 8.1 with hiredis).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.exceptions import RedisError, ResponseError

from stream_cache.errors import AnswerTooLarge, BadRecord, StoreUnavailable
from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Reading
from stream_cache.readings.times import format_time
from stream_cache.settings import RedisSettings
from stream_cache.store.connection import RedisConnection
from stream_cache.store.hashes import Device, to_device, to_texts
from stream_cache.store.scripts import Script

_DEVICES, _PRUNE_LEASE, _WALKED = "devices", "stream_cache:prune_lease", "stream_cache:walked"
_STATE, _BARRIER = "stream_cache:state", "stream_cache:barrier"
#: What the entries of one HTTP answer may amount to, as JSON (the contract, section 4).
MAX_ANSWER_BYTES = 16 * 2**20
#: Devices a script call carries, and calls in one pipeline. Redis answers nobody else during a pipeline, nor we while
#: it is packed, for a few milliseconds: lookups feel it. Calls of 50 devices cost this process a tenth more.
_DEVICES_PER_CALL = 100
_CALLS_PER_PIPELINE = 3
_PIPELINES_AT_ONCE = 2
_MARKER_TTL_WITHOUT_TTL_MS = 86_400_000
_LARGEST_DEADLINE_MS = 2**53 - 1  # what a number in Lua holds exactly
_LOOKUP_TIMEOUT_S = 2.5  # the contract promises an answer within 3 s
#: How long a lookup waits at most for a round trip on its way, to share the next one with those that come meanwhile.
_SHARING_S = 0.002
#: Beyond that, an answer would hold up Redis and this process.

#: Readings and tombstones of one script call.
_Page = tuple[Sequence[Reading], Sequence[Reading]]


class Page(NamedTuple):
    """One page of the index."""

    device_ids: list[str]
    total_count: int
    next_cursor: str | None


class Store:
    """The latest metadata of every device, in Redis.

    Args:
        ttl_s: how long a device is kept after its last record's Kafka timestamp; 0 is for ever.
        timeout_s: after which a pipeline of writes, its few tries together, counts as failed.
    """

    def __init__(self, redis: RedisConnection, *, ttl_s: int, timeout_s: float, durability: str = "none") -> None:
        self._redis, self._ttl_ms, self._timeout_s = redis, ttl_s * 1000, timeout_s
        self._durability = durability
        self._asked: list[tuple[str, asyncio.Future[Device | None]]] = []
        self._lookups: set[asyncio.Task[None]] = set()
        self._put_latest = Script("errors.lua", "index.lua", "expiring.lua", "put_latest.lua")
        self._get_many = Script("errors.lua", "get_many.lua")
        self._list_devices = Script("index.lua", "list_devices.lua")
        self._prune = Script("index.lua", "expiring.lua", "prune.lua")
        self._prune_expired = Script("index.lua", "expiring.lua", "prune_expired.lua")
        self._heal = Script("errors.lua", "index.lua", "heal.lua")

    @classmethod
    def from_settings(cls, settings: RedisSettings) -> Store:
        """Make one that connects when it is first used."""
        return cls(
            RedisConnection(settings),
            ttl_s=settings.metadata_ttl_s,
            timeout_s=4 * settings.timeout_s,
            durability=settings.durability,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.close()

    async def put_latest(self, readings: Sequence[Reading], tombstones: Sequence[Reading]) -> PutResult:
        """Write each reading, or forget its device, unless Redis already holds something newer of that device.

        Shape: any number of readings; sent in script calls of 100, pipelined. Not a transaction: a reader may see some
        devices before others, never an older reading after a newer one.

        Raises: StoreUnavailable after the time limit of a few tries. Nothing is lost: the same call again is harmless.
        """
        pages = list(_pages(tombstones, readings))
        slices = [pages[start : start + _CALLS_PER_PIPELINE] for start in range(0, len(pages), _CALLS_PER_PIPELINE)]
        room = asyncio.Semaphore(_PIPELINES_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                puts = [group.create_task(self._put(some, room)) for some in slices]
        except* StoreUnavailable as errors:
            raise StoreUnavailable(str(errors.exceptions[0])) from errors
        await self._redis.call(self._timeout_s, self._wait_until_durable(), is_flush=True)
        results = [put.result() for put in puts]
        return PutResult(
            sum(result.written_count for result in results),
            sum(result.stale_count for result in results),
            sum(result.expired_count for result in results),
            [refused for result in results for refused in result.refused],
        )

    async def _put(self, pages: Sequence[_Page], room: asyncio.Semaphore) -> PutResult:
        async with room:
            # Packed only now: while Redis is busy with one pipeline, the next one is made ready.
            blobs = [self._pack(*page) for page in pages]
            call = self._put_latest.call(self._redis.writer, blobs)
            replies = await self._redis.call(self._timeout_s, call, is_flush=True)
        written = stale = expired = 0
        refused: list[tuple[Reading, BadRecord]] = []
        for (readings, tombstones), reply in zip(pages, replies, strict=True):
            written, stale, expired = written + reply[0], stale + reply[1], expired + reply[2]
            refused += (_refuse(readings[index - 1]) for index in reply[3])
            refused += (_refuse(tombstones[index - 1]) for index in reply[4])
        return PutResult(written, stale, expired, refused)

    async def get(self, device_id: str) -> Device | None:
        """Look one device up; those that arrive together share a round trip. Raises: StoreUnavailable after 2.5 s."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            # Sooner where the round trip that is on its way ends before: `_end_lookup`.
            loop.call_later(_SHARING_S if self._lookups else 0, self._start_lookup)
        answer: asyncio.Future[Device | None] = loop.create_future()
        self._asked.append((device_id, answer))
        return await answer

    def _start_lookup(self) -> None:
        if self._asked:
            asked, self._asked = self._asked, []
            lookup = asyncio.create_task(self._answer(asked))
            self._lookups.add(lookup)
            lookup.add_done_callback(self._end_lookup)

    def _end_lookup(self, lookup: asyncio.Task[None]) -> None:
        self._lookups.discard(lookup)
        self._start_lookup()

    async def _answer(self, asked: Sequence[tuple[str, asyncio.Future[Device | None]]]) -> None:
        found: dict[str, Device | None] = {}
        failure: Exception | None = None
        try:
            wanted = list(dict.fromkeys(device_id for device_id, _ in asked))
            while len(found) < len(wanted):  # again where the answer was cut: they are answers of their own
                found |= await self._look_up(wanted[len(found) :])
        except Exception as error:  # noqa: BLE001 - it is raised again, in each of the lookups that wait
            failure = error
        for device_id, answer in asked:
            if answer.done():  # whoever asked has hung up
                continue
            if failure and device_id not in found:
                answer.set_exception(failure)
            else:
                answer.set_result(found[device_id])

    async def get_many(self, device_ids: Sequence[str]) -> list[Device | None]:
        """Look devices up, each once and all in one round trip; None for each that isn't there.

        Raises: StoreUnavailable within 2.5 s; AnswerTooLarge for more than 16 MiB of metadata.
        """
        wanted = list(dict.fromkeys(device_ids))
        found = await self._look_up(wanted)
        if len(found) < len(wanted):
            raise AnswerTooLarge(MAX_ANSWER_BYTES)
        return [found[device_id] for device_id in device_ids]

    async def _look_up(self, device_ids: Sequence[str]) -> dict[str, Device | None]:
        """Return what there is of each: of the first ones only, at least one, where it would be beyond 16 MiB."""
        call = self._get_many.call(self._redis.reader, [(msgspec.msgpack.encode(device_ids), MAX_ANSWER_BYTES)])
        (reply,) = await self._redis.call(_LOOKUP_TIMEOUT_S, call)
        return {
            device_id: to_device(device_id, fields) if fields else None
            for device_id, fields in zip(device_ids, reply, strict=False)
        }

    async def list_devices(self, limit: int, cursor: str | None) -> Page:
        """Return one page of ids. An id that stays is seen exactly once over all pages.

        Shape: `limit` ids, fewer where there are no more, or where they would be more than 16 MiB of JSON.

        Raises: ValueError for a cursor that is none of ours; StoreUnavailable within 2.5 s.
        """
        after = b"" if cursor is None else _decode_cursor(cursor)
        call = self._list_devices.call(self._redis.reader, [(after, limit + 1, MAX_ANSWER_BYTES)])
        ((ids, count),) = await self._redis.call(_LOOKUP_TIMEOUT_S, call)
        page = _fitting([device_id.decode() for device_id in ids[:limit]])
        next_cursor = base64.urlsafe_b64encode(ids[len(page) - 1]).decode() if len(page) < len(ids) else None
        return Page(page, count, next_cursor)

    async def prune_expired(self, count: int) -> tuple[int, int]:
        """Take ids out of the index that were noted to expire by now, and have.

        Returns: how many, and how many of the noted ones were looked at: `count` when there may be more.
        """
        ((removed, looked_at),) = await self._call(self._prune_expired.call(self._redis.writer, [(count,)]))
        return removed, looked_at

    async def prune(self, after: bytes, count: int) -> tuple[int, bytes]:
        """Take ids without a hash out of one page of the index: the one after this id, the first one after none.

        The others come into `devices` where it lacks them; those that expire within ten minutes are noted for
        `prune_expired`.

        Returns: how many were taken out, and the last id of the page; empty at the end of the index.
        """
        ((removed, last),) = await self._call(self._prune.call(self._redis.writer, [(after, count)]))
        return removed, last

    async def heal(self, cursor: bytes, count: int) -> tuple[int, bytes]:
        """Take ids without a hash out of one page of `devices`; the others come into the index where it lacks them.

        Returns: how many were taken out, and the next page's cursor; empty, as the first one's, at the end.
        """
        ((removed, cursor),) = await self._call(self._heal.call(self._redis.writer, [(cursor, count)]))
        return removed, cursor

    async def take_prune_lease(self, owner: str, seconds: float) -> bool:
        """Become the one worker that prunes, for a while. Returns: whether nobody else is."""
        return bool(await self._call(self._redis.writer.set(_PRUNE_LEASE, owner, nx=True, px=int(seconds * 1000))))

    async def keep_prune_lease(self, seconds: float) -> None:
        """Let the lease that is held end later: so long from now."""
        await self._call(self._redis.writer.pexpire(_PRUNE_LEASE, int(seconds * 1000)))

    async def note_walk(self, seconds: float) -> None:
        """Note that all pages were pruned, for so long."""
        await self._call(self._redis.writer.set(_WALKED, "", px=int(seconds * 1000)))

    async def has_walked(self) -> bool:
        """Tell whether a walk was noted, and its time is not over."""
        return bool(await self._call(self._redis.writer.exists(_WALKED)))

    async def count_devices(self) -> int:
        """Return how many devices are held."""
        return int(await self._call(self._redis.writer.scard(_DEVICES)))

    async def get_state(self) -> str | None:
        """Return what `set_state` said last, None when Redis has lost it.

        Asked by a command that only a master takes, so that a master that has moved is noticed without a flush too.
        """
        text = await self._call(self._redis.writer.getex(_STATE))
        return None if text is None else text.decode()

    async def set_state(self, state: str) -> None:
        """Keep a word on whether the state is complete, for as long as Redis keeps anything."""
        await self._call(self._redis.writer.set(_STATE, state))

    async def eviction_policy(self) -> str | None:
        """Return what Redis does when its memory is full, None where we may not ask."""

        async def ask() -> str | None:
            try:
                memory = await self._redis.writer.info("memory")
            except ResponseError:
                return None
            return memory.get("maxmemory_policy")

        policy: str | None = await self._call(ask())
        return policy

    async def ping(self) -> None:
        """Ask as a lookup does, for no device. Raises: StoreUnavailable when there is no answer within 2.5 s."""
        await self._look_up(())

    def _call(self, call: Awaitable[Any]) -> Awaitable[Any]:
        return self._redis.call(self._timeout_s, call)

    async def _wait_until_durable(self) -> None:
        """Wait until what was written so far is where REDIS_DURABILITY wants it.

        WAIT looks at the last write of its own connection, so it follows one in its own pipeline: whatever was written
        before, over any connection, lies before that one in the replication stream.

        Raises: RedisError when it isn't there in time. Source: Redis manual, "WAIT" and "WAITAOF" (7.2).
        """
        if self._durability == "none":
            return
        wait_ms = int(self._timeout_s * 200)  # four fifths of a call's limit: the answer must come before that ends
        pipeline = self._redis.writer.pipeline(transaction=False)
        pipeline.set(_BARRIER, "")
        pipeline.execute_command(*(("WAIT", 1) if self._durability == "replica" else ("WAITAOF", 1, 0)), wait_ms)
        barrier, found = await pipeline.execute(raise_on_error=False)
        if isinstance(barrier, Exception):
            raise barrier
        if isinstance(found, Exception):
            if self._durability == "replica":
                raise found
            raise RedisError(f"REDIS_DURABILITY=aof needs Redis 7.2 or later with appendonly yes; it says: {found}")
        is_durable = (found if self._durability == "replica" else found[0]) >= 1
        if not is_durable:
            where = "at a replica" if self._durability == "replica" else "in the append-only file"
            raise RedisError(f"what was written is not yet {where} (REDIS_DURABILITY)")

    def _pack(self, readings: Sequence[Reading], tombstones: Sequence[Reading]) -> bytes:
        return msgspec.msgpack.encode(
            ([self._pack_reading(reading) for reading in readings], [self._pack_tombstone(dead) for dead in tombstones])
        )

    def _pack_reading(self, reading: Reading) -> tuple[Any, ...]:
        return (
            reading.device_id,
            format_time(reading.event_time),
            f"{reading.raw.offset}:{reading.partition}",
            str(self._deadline_ms(reading.record_ms)),
            *to_texts(reading.metadata),
        )

    def _pack_tombstone(self, tombstone: Reading) -> tuple[Any, ...]:
        deadline_ms = self._deadline_ms(tombstone.record_ms)
        return (
            tombstone.device_id,
            format_time(tombstone.event_time),
            f"{tombstone.raw.offset}:{tombstone.partition}",
            deadline_ms,
            deadline_ms or min(tombstone.record_ms + _MARKER_TTL_WITHOUT_TTL_MS, _LARGEST_DEADLINE_MS),
        )

    def _deadline_ms(self, timestamp_ms: int) -> int:
        deadline_ms = timestamp_ms + self._ttl_ms
        if not self._ttl_ms or 0 < deadline_ms < _LARGEST_DEADLINE_MS:
            return self._ttl_ms and deadline_ms
        return 1 if deadline_ms <= 0 else _LARGEST_DEADLINE_MS  # 0 would mean never


def _pages(tombstones: Sequence[Reading], readings: Sequence[Reading]) -> Iterable[_Page]:
    for start in range(0, len(tombstones), _DEVICES_PER_CALL):
        yield (), tombstones[start : start + _DEVICES_PER_CALL]
    for start in range(0, len(readings), _DEVICES_PER_CALL):
        yield readings[start : start + _DEVICES_PER_CALL], ()


class _HasRequestId(msgspec.Struct):
    request_id: str


def _request_id(value: bytes | None) -> str | None:
    try:
        return msgspec.json.decode(value or b"", type=_HasRequestId).request_id
    except (ValueError, RecursionError):
        return None


def _refuse(reading: Reading) -> tuple[Reading, BadRecord]:
    key = f"device:{reading.device_id}:metadata"
    reason = f"device_id: the Redis key {key[:200]!r} holds something that is no hash; delete it to let the device in"
    return reading, BadRecord("wrong_redis_type", reason, _request_id(reading.raw.value))


def _fitting(device_ids: list[str]) -> list[str]:
    """Return the first ones, at least one, that are at most 16 MiB as JSON."""
    sizes = (len(msgspec.json.encode(device_id)) + 1 for device_id in device_ids)
    count = sum(1 for total in itertools.accumulate(sizes) if total <= MAX_ANSWER_BYTES)
    return device_ids[: max(1, count)]


def _decode_cursor(cursor: str) -> bytes:
    try:
        device_id = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        device_id.decode()
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(str(error)) from None
    if not device_id:
        raise ValueError("empty")
    return device_id
