"""Stand-ins that unit tests and store tests share: records as aiokafka hands them over, and readings made of them."""

import copy
import itertools
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from stream_cache.errors import BadRecord
from stream_cache.readings.decode import decode_chunk
from stream_cache.readings.reading import Latest, Reading, Record
from tests import oracle, readings

NOW_MS = readings.BASE_MS


class FakeRecord(NamedTuple):
    """What the package reads of a record (`stream_cache.readings.reading.RawRecord`), and its partition."""

    partition: int = 0
    offset: int = 0
    timestamp: int = NOW_MS
    key: bytes | None = None
    value: bytes | None = b"{}"


def source_record(record: oracle.Record) -> FakeRecord:
    """Give the package's view of the oracle's record."""
    return FakeRecord(record.partition, record.offset, record.timestamp_ms, record.key, record.value)


class Decoded(NamedTuple):
    """All that was decoded of a chunk, each list in its records' order."""

    readings: list[Reading]
    tombstones: list[Reading]
    bad: list[tuple[Record, BadRecord]]
    without_metadata_count: int


def decoded(records: Iterable[oracle.Record], max_clock_skew_s: float = 3600) -> Decoded:
    """Decode records as one chunk."""
    return decode_all([source_record(record) for record in records], max_clock_skew_s)


def decode_all(records: Sequence[FakeRecord], max_clock_skew_s: float = 3600) -> Decoded:
    """Decode records each by itself, and hold it against what a chunk of all of them says of each."""
    kept: list[Reading] = []
    bad: list[tuple[Record, BadRecord]] = []
    without_metadata_count = 0
    for record in records:
        alone = decode_chunk([record], record.partition, max_clock_skew_s)
        found = list(alone.latest.by_device.values())
        assert len(found) + len(alone.bad) + alone.without_metadata_count == 1, "each is one thing"
        kept += found
        bad += alone.bad
        without_metadata_count += alone.without_metadata_count
    readings = [item for item in kept if not item.is_tombstone]
    tombstones = [item for item in kept if item.is_tombstone]
    if len({record.partition for record in records}) == 1:
        together = decode_chunk(records, records[0].partition, max_clock_skew_s)
        assert (together.reading_count, together.tombstone_count) == (len(readings), len(tombstones))
        assert together.without_metadata_count == without_metadata_count
        assert [(record, said.kind) for record, said in together.bad] == [(r, said.kind) for r, said in bad]
        if all(one.offset < other.offset for one, other in itertools.pairwise(records)):
            latest = Latest()
            latest.merge(copy.copy(event) for event in kept)
            assert together.latest == latest
    return Decoded(readings, tombstones, bad, without_metadata_count)


def json_record(
    device_id: str,
    *,
    offset: int = 0,
    partition: int = 0,
    timestamp_ms: int = NOW_MS,
    event_time: str | None = None,
    metadata: str = '{"datatype_name":"T"}',
) -> oracle.Record:
    """Make a good record; its event time is its Kafka timestamp unless another is given."""
    when = event_time or oracle.time_text(timestamp_ms * 1000)
    text = (
        f'{{"request_id":"r-{partition}-{offset}","timestamp":"{when}","device_id":{json.dumps(device_id)},'
        f'"values":[1],"metadata":{metadata}}}'
    )
    return oracle.Record(partition, offset, timestamp_ms, device_id.encode(), text.encode())


def reading(device_id: str = "d", *, offset: int = 0, partition: int = 0, timestamp_ms: int = NOW_MS) -> Reading:
    """Make a decoded reading whose datatype's name tells its offset."""
    event_time = oracle.EPOCH.replace(tzinfo=None) + timedelta(milliseconds=timestamp_ms)
    value = f'{{"metadata":{{"datatype_name":"{offset}"}}}}'.encode()
    record = FakeRecord(partition, offset, timestamp_ms, device_id.encode(), value)
    return Reading(device_id, event_time, record, partition, timestamp_ms)


def tombstone(device_id: str = "d", *, offset: int = 0, partition: int = 0, timestamp_ms: int = NOW_MS) -> Reading:
    """Make a decoded tombstone."""
    event_time = oracle.EPOCH.replace(tzinfo=None) + timedelta(milliseconds=timestamp_ms)
    record = FakeRecord(partition, offset, timestamp_ms, device_id.encode(), None)
    return Reading(device_id, event_time, record, partition)
