"""Writing devices' hashes: the latest event of each wins (the contract, section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from stream_cache.errors import BadRecord, StoreUnavailable
from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Reading
from stream_cache.readings.times import format_time
from stream_cache.store import keys, scripts
from stream_cache.store.connection import Connection
from stream_cache.store.hashes import to_texts
from stream_cache.store.index import Index
from stream_cache.store.scripts import Call
from stream_cache.store.stamps import kafka_ms, stamp_of

#: Devices in one pipeline. A Redis answers nobody else while it works on one, nor we while it is packed, for a few
#: milliseconds: lookups feel it. More were no faster.
_DEVICES_PER_PIPELINE = 300
_PIPELINES_AT_ONCE = 2
_LARGEST_DEADLINE_MS = 2**53 - 1  # what a number in Lua holds exactly


class Devices:
    """The hashes. Each is written by one script call of its own key, so the order holds whatever crosses.

    Args:
        ttl_ms: how long a device is kept after its winner's Kafka timestamp; 0 is for ever.
        timeout_s: after which a pipeline of writes, its few tries together, counts as failed.
    """

    def __init__(self, connection: Connection, index: Index, *, ttl_ms: int, timeout_s: float) -> None:
        self._connection, self._index, self._ttl_ms, self._timeout_s = connection, index, ttl_ms, timeout_s

    async def put_latest(self, events: Sequence[Reading]) -> PutResult:
        """Write each event, a reading with metadata or a tombstone, unless a later one of its device is held.

        Shape: any number of events, of different devices; pipelined in script calls of 50, on a Cluster of one. Then
        they are indexed. Not a transaction: a reader may see some devices before others, never an earlier event after
        a later one.

        Raises: StoreUnavailable after the time limit of a few tries. Nothing is lost: the same call again is harmless.
        """
        room = asyncio.Semaphore(_PIPELINES_AT_ONCE)
        parts = scripts.in_calls(events, _DEVICES_PER_PIPELINE)
        try:
            async with asyncio.TaskGroup() as group:
                puts = [group.create_task(self._put(part, room)) for part in parts]
        except* StoreUnavailable as errors:
            raise StoreUnavailable(str(errors.exceptions[0])) from errors
        return _sum([put.result() for put in puts])

    async def _put(self, events: Sequence[Reading], room: asyncio.Semaphore) -> PutResult:
        async with room:
            # Packed only now: while Redis is busy with one pipeline, the next one is made ready.
            step = self._connection.devices_per_call
            calls = [self._call(some) for some in scripts.in_calls(events, step)]
            replies = await self._connection.write(calls, timeout_s=self._timeout_s)
        letters, held_ms = _parse(replies, step)
        await self._index.take_in(events, letters, held_ms)
        refused = [_refuse(event) for event, letter in zip(events, letters, strict=True) if letter == _REFUSED]
        written_count = sum(map(letters.count, b"nug"))
        return PutResult(
            written_count, letters.count(b"e") + letters.count(b"s") + letters.count(b"t"), letters.count(b"x"), refused
        )

    def _call(self, events: Sequence[Reading]) -> Call:
        blob = msgspec.msgpack.encode([self._pack(event) for event in events])
        return scripts.PUT.call([f"device:{event.device_id}:metadata" for event in events], blob)

    def _pack(self, event: Reading) -> tuple[str | int | None, ...]:
        record_ms = event.record_ms
        deadline_ms = record_ms + self._ttl_ms
        if not self._ttl_ms:
            deadline_ms = 0  # never
        elif not 0 < deadline_ms < _LARGEST_DEADLINE_MS:
            deadline_ms = 1 if deadline_ms <= 0 else _LARGEST_DEADLINE_MS
        written = format_time(event.event_time), stamp_of(event, record_ms), deadline_ms
        return written if event.is_tombstone else (*written, *to_texts(event.metadata))


_REFUSED = ord("r")


def _parse(replies: Sequence[bytes], step: int) -> tuple[bytes, dict[int, int]]:
    """Read the replies of `put.lua`, whose calls had `step` devices each.

    Returns: all letters in one; and by number from 0, the held winner's Kafka timestamp of each that is stale.
    """
    if not any(b"," in reply for reply in replies):
        return b"".join(replies), {}
    letters: list[bytes] = []
    held_ms: dict[int, int] = {}
    for first, reply in enumerate(replies):
        some, *stamps = reply.split(b",")
        letters.append(some)
        for stamp in stamps:
            number, delay, event_time = stamp.decode().split(":", 2)
            held_ms[first * step + int(number) - 1] = kafka_ms(event_time, delay)
    return b"".join(letters), held_ms


def _sum(results: Sequence[PutResult]) -> PutResult:
    return PutResult(
        sum(result.written_count for result in results),
        sum(result.stale_count for result in results),
        sum(result.expired_count for result in results),
        [refused for result in results for refused in result.refused],
    )


class _HasRequestId(msgspec.Struct):
    request_id: str


def _request_id(value: bytes | None) -> str | None:
    try:
        return msgspec.json.decode(value or b"", type=_HasRequestId).request_id
    except (ValueError, RecursionError):
        return None


def _refuse(event: Reading) -> tuple[Reading, BadRecord]:
    key = keys.metadata_key(event.device_id)
    reason = (
        f"device_id: the Redis key {key[:200]!r} holds something that is not a hash; delete it to let the device in"
    )
    return event, BadRecord("wrong_redis_type", reason, _request_id(event.raw.value))
