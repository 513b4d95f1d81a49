"""The records of a chunk -> readings, and a `BadRecord` for each that the contract refuses (section 1).

Two readers of the same contract. The fast one is msgspec, typed, and takes only what it is sure of: the usual shapes.
Whatever it does not take goes to the exact one, `judge`, slower and in plain words, which alone may call a record's
value bad. A property test holds the two together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NoReturn

import msgspec

from stream_cache.errors import BadRecord
from stream_cache.readings.judge import judge
from stream_cache.readings.reading import NO_TIMESTAMP, Latest, RawRecord, Reading, Record
from stream_cache.readings.times import (
    EPOCH,
    LAST_MOMENT,
    TAKES_24,
    in_utc,
    parse_iso,
    parse_with_offset,
    record_time,
    to_ms,
)
from stream_cache.readings.wire import Wire

_A_YEAR = timedelta(days=365)

_decode_fast = msgspec.json.Decoder(Wire).decode


class DecodedChunk(msgspec.Struct):
    """What became of the records of a chunk; `bad` is in their order."""

    latest: Latest
    reading_count: int = 0
    tombstone_count: int = 0
    without_metadata_count: int = 0
    bad: list[tuple[Record, BadRecord]] = []


def decode_chunk(  # noqa: C901, PLR0912 - one loop: each call in it costs a twentieth
    records: Sequence[RawRecord],
    partition: int,
    max_clock_skew_s: float,
    clock: Callable[[], float] = time.time,
) -> DecodedChunk:
    """Decode every record of a chunk. Never raises: what is bad stands in the result, with its reason.

    What is overtaken within the chunk is freed while it is still in the processor's cache. A list of all readings took
    a quarter longer.
    """
    latest = Latest()
    chunk = DecodedChunk(latest)
    limits = _Limits(timedelta(seconds=max_clock_skew_s), clock)
    timestamps = [record.timestamp for record in records]
    # One limit for all: what lies within the earliest record's limit lies within its own.
    safe_limit = limits.of_all(timestamps)
    kept = latest.by_device
    for record, seen_ms in zip(records, timestamps, strict=True):
        value = record.value
        try:
            if value is None:
                latest.keep(_tombstone(record, partition))
                chunk.tombstone_count += 1
                continue
            try:
                if not value.isascii():
                    value.decode()  # the fast decoder doesn't look into texts that it skips
                wire = _decode_fast(value)
                text = wire.timestamp
                event_time = parse_with_offset(text) if text[-6] in "+-" else parse_iso(text)
                is_usual = event_time.tzinfo is None and EPOCH <= event_time <= safe_limit
                if not is_usual or (TAKES_24 and event_time.hour == 0):
                    event_time = in_utc(event_time, text)
            except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
                wire, event_time = judge(value)
            if event_time > safe_limit:
                limits.check(event_time, record, wire.request_id)
        except Exception as error:  # noqa: BLE001 - published in full; raised, it would stop the partition for ever
            chunk.bad.append((Record.of(record, partition), _why_bad(error)))
            continue
        if wire.metadata is None:
            chunk.without_metadata_count += 1
            continue
        if seen_ms == NO_TIMESTAMP:
            seen_ms = to_ms(event_time)  # noqa: PLW2901 - for this record alone
        device_id = wire.device_id
        held = kept.get(device_id)
        # `Latest.keep` without the calls: of one partition the offsets rise.
        if held is None:
            kept[device_id] = Reading(device_id, event_time, record, partition, seen_ms)
        else:
            if event_time >= held.event_time:
                held.event_time, held.raw = event_time, record
            if seen_ms > held.seen_ms:  # noqa: PLR1730 - a call of `max` costs twice as much
                held.seen_ms = seen_ms
    chunk.reading_count = len(records) - chunk.tombstone_count - chunk.without_metadata_count - len(chunk.bad)
    return chunk


def _why_bad(error: Exception) -> BadRecord:
    if isinstance(error, BadRecord):
        return error
    fault = f"value: the service failed to judge it, which is a fault of the service: {error!r:.300}"
    return BadRecord("internal_error", fault)


class _Limits:
    """How far ahead event times may lie: `max_clock_skew` after the record's Kafka timestamp.

    Where a record has none, after the worker's clock.
    """

    def __init__(self, skew: timedelta, clock: Callable[[], float]) -> None:
        self._skew, self._clock = skew, clock

    def of_all(self, timestamps: Sequence[int]) -> datetime:
        """Return a limit that holds for each of the records with these timestamps."""
        earliest_ms = min(timestamps, default=0)
        if earliest_ms == NO_TIMESTAMP:
            now_ms = self._now_ms()
            earliest_ms = min([now_ms if timestamp == NO_TIMESTAMP else timestamp for timestamp in timestamps])
        return min(record_time(earliest_ms, self._skew), LAST_MOMENT)

    def check(self, event_time: datetime, record: RawRecord, request_id: str) -> None:
        """Raises: BadRecord for an event time beyond its record's limit, saying which clock is wrong."""
        has_timestamp = record.timestamp != NO_TIMESTAMP
        now_ms = self._now_ms()
        record_ms = record.timestamp if has_timestamp else now_ms
        if event_time <= record_time(record_ms, self._skew):
            return
        moment, now = record_time(record_ms), record_time(now_ms)
        if not now - _A_YEAR <= moment <= now + _A_YEAR:
            reason = (
                f"Kafka timestamp: {record_ms} ms is {moment.isoformat()}Z, more than a year from the worker's clock "
                f"({now.isoformat(timespec='seconds')}Z), so the event time {event_time.isoformat()}Z seems to lie "
                "ahead; does the producer set it in other units than milliseconds?"
            )
            raise BadRecord("bad_kafka_timestamp", reason, request_id)
        behind = "the record's Kafka timestamp" if has_timestamp else "the worker's clock (the record has no timestamp)"
        reason = (
            f"timestamp: {event_time.isoformat()}Z is {event_time - moment} ahead of {behind}; "
            f"MAX_CLOCK_SKEW_S allows {self._skew}: is the device's clock wrong?"
        )
        raise BadRecord("clock_ahead", reason, request_id)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _tombstone(record: RawRecord, partition: int) -> Reading:
    def refuse(kind: str, reason: str) -> NoReturn:
        raise BadRecord(kind, reason)

    if not record.key:
        refuse("bad_key", "key: a tombstone (null value) names its device by the record's key, which is empty")
    try:
        device_id = record.key.decode()
    except UnicodeDecodeError as error:
        refuse("bad_key", f"key: a tombstone's key must be a device id in UTF-8: {error}")
    if record.timestamp == NO_TIMESTAMP:
        refuse(
            "bad_kafka_timestamp", "Kafka timestamp: a tombstone counts as of its own, and this record has none (-1)"
        )
    return Reading(device_id, record_time(record.timestamp), record, partition)
