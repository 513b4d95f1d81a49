"""Stand-ins that unit tests and store tests share: records as aiokafka hands them over, and readings made of them."""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from stream_cache.decode import decode_chunk
from stream_cache.errors import BadRecord
from stream_cache.models import Metadata, Reading, SourceRecord
from tests import oracle, readings

NOW_MS = readings.BASE_MS


class FakeRecord(NamedTuple):
    """What the package reads of a record (`stream_cache.models.SourceRecord`)."""

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
    bad: list[tuple[SourceRecord, BadRecord]]
    without_metadata_count: int


def decoded(records: Iterable[oracle.Record], max_clock_skew_s: float = 3600) -> Decoded:
    """Decode records as one chunk."""
    return decode_all([source_record(record) for record in records], max_clock_skew_s)


def decode_all(records: Sequence[SourceRecord], max_clock_skew_s: float = 3600) -> Decoded:
    """Decode a chunk and keep everything; the counts must agree."""
    kept: list[Reading] = []
    chunk = decode_chunk(records, max_clock_skew_s, kept.append)
    readings = [item for item in kept if item.metadata is not None]
    tombstones = [item for item in kept if item.metadata is None]
    assert (chunk.reading_count, chunk.tombstone_count) == (len(readings), len(tombstones))
    return Decoded(readings, tombstones, chunk.bad, chunk.without_metadata_count)


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
    record = FakeRecord(partition, offset, timestamp_ms, device_id.encode())
    metadata = Metadata(datatype_name=msgspec.Raw(f'"{offset}"'.encode()))
    return Reading(device_id, event_time, metadata, record, timestamp_ms)


def tombstone(device_id: str = "d", *, offset: int = 0, partition: int = 0, timestamp_ms: int = NOW_MS) -> Reading:
    """Make a decoded tombstone."""
    event_time = oracle.EPOCH.replace(tzinfo=None) + timedelta(milliseconds=timestamp_ms)
    record = FakeRecord(partition, offset, timestamp_ms, device_id.encode(), None)
    return Reading(device_id, event_time, None, record, timestamp_ms)
