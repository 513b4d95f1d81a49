"""Seeded readings for the benchmarks, and what Redis must hold once all of them are through.

Event times lie in the past, so no clock can make one a bad record. `even.py` and `mixed.py` draw the readings.

The last record of each partition is the newest of a sentinel device of its own: whoever sees its event time in Redis
knows that the partition has been consumed to its end.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from confluent_kafka import Producer

from bench import even, mixed
from bench.texts import EPOCH_S, US, request_id, second_text

PARTITIONS: Final = 8
SEED: Final = 20_261_122
SAMPLED_DEVICES: Final = 200  # devices whose final state is compared field by field
METADATA_FIELDS: Final = ("datatype_id", "datatype_name", "datatype_unit", "persist")

Shapes: TypeAlias = Literal["even", "mixed"]
_BODIES: Final = {"even": even.bodies, "mixed": mixed.bodies}


@dataclass(frozen=True, slots=True)
class Workload:
    """How many readings of how many devices; `devices=None` makes every reading one of a device of its own."""

    name: str
    readings: int
    devices: int | None
    seed: int = SEED
    first_device: int = 0  # ids are numbered from here: another fleet
    start_s: int = 0  # event times begin this much later: the same fleet again, newer
    shapes: Shapes = "even"


class Record(NamedTuple):
    """One Kafka record to produce, and what its expected outcome is computed from."""

    partition: int
    device_id: str
    event_us: int
    has_metadata: bool
    value: bytes


@dataclass(slots=True)
class Expected:
    """The final state of a workload: counts, and a seeded sample of devices (the sentinels among them).

    `latest` maps a device to the record that wins by event time, then offset, among those with metadata; `last` to its
    last record in offset order, which is what a consumer ends with that doesn't look at event times.
    """

    device_count: int  # devices with at least one record
    hash_count: int  # devices with at least one record with metadata
    sentinels: list[str]  # device ids
    sentinel_event_us: int
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)


def partition_of(device_id: str) -> int:
    """The partition of a device: any stable hash of the key will do."""
    return zlib.crc32(device_id.encode()) % PARTITIONS


def hash_key(device_id: str) -> str:
    """Give the key of a device's hash (contract, section 2)."""
    return f"device:{device_id}:metadata"


def event_us(timestamp: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time; naive means UTC (contract, section 1)."""
    parsed = datetime.fromisoformat(timestamp)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    whole_s = int(parsed.replace(microsecond=0).timestamp())
    return whole_s * US + parsed.microsecond


def records(workload: Workload) -> Iterator[Record]:
    """Every record of the workload, in the order of production. The same seed gives the same bytes."""
    rng = random.Random(workload.seed)
    body_count = max(0, workload.readings - PARTITIONS)  # the rest are the sentinels'
    newest_us = start_us = workload.start_s * US
    bodies = _BODIES[workload.shapes](rng, body_count, workload.devices, workload.first_device, start_us)
    for body in bodies:
        newest_us = max(newest_us, body.at_us)
        yield Record(
            partition_of(body.device_id), body.device_id, EPOCH_S * US + body.at_us, body.has_metadata, body.value
        )
    yield from _sentinels(workload, workload.readings - body_count, newest_us // US + 1)


def produce(workload: Workload, bootstrap_servers: str, topic: str) -> Expected:
    """Produce the workload (gzip, acks=all, keyed by device) and say which state it must lead to.

    Batches are of up to 1,000 records: between what a busy normalizer sends and what a catching-up replicator does.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "compression.type": "gzip",
            "compression.level": 6,
            "enable.idempotence": True,  # keeps the order over retries, and implies acks=all
            "log_level": 3,  # errors: the first use of a new broker warns of a retry
            "linger.ms": 50,
            "batch.num.messages": 1_000,
            "queue.buffering.max.messages": 200_000,
        }
    )
    latest: dict[str, Record] = {}
    last: dict[str, Record] = {}
    for record in records(workload):
        last[record.device_id] = record
        if record.has_metadata:
            held = latest.get(record.device_id)
            if held is None or record.event_us >= held.event_us:
                latest[record.device_id] = record
        send(producer, topic, record)
    unsent = producer.flush(120)
    if unsent:
        message = f"{unsent} records of {workload.name} were not taken by {bootstrap_servers}"
        raise RuntimeError(message)
    return _expected(workload, latest, last)


def send(producer: Producer, topic: str, record: Record) -> None:
    """Hand a record to the producer, waiting while its queue is full."""
    while True:
        try:
            producer.produce(topic, record.value, record.device_id.encode(), record.partition)
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return


def _expected(workload: Workload, latest: dict[str, Record], last: dict[str, Record]) -> Expected:
    sentinels = [_sentinel_id(workload, p) for p in range(PARTITIONS)]
    sentinels = [device_id for device_id in sentinels if device_id in latest]
    rng = random.Random(workload.seed)
    sample = rng.sample(sorted(latest), min(SAMPLED_DEVICES, len(latest)))
    chosen = dict.fromkeys([*sentinels, *sample])
    return Expected(
        device_count=len(last),
        hash_count=len(latest),
        sentinels=sentinels,
        sentinel_event_us=max((latest[device_id].event_us for device_id in sentinels), default=0),
        latest={device_id: json.loads(latest[device_id].value) for device_id in chosen},
        last={device_id: json.loads(last[device_id].value) for device_id in chosen},
    )


def _sentinel_id(workload: Workload, partition: int) -> str:
    return f"sentinel-{workload.first_device}-{partition}"


def _sentinels(workload: Workload, count: int, second: int) -> Iterator[Record]:
    """One record of a device of its own for each of the first `count` partitions, newer than all before."""
    for partition in range(count):
        yield record_at(_sentinel_id(workload, partition), second * US, partition)


def record_at(device_id: str, at_us: int, partition: int | None = None) -> Record:
    """Make a greenhouse's reading at a chosen event time, in microseconds after the time where workloads begin."""
    second, fraction_us = divmod(at_us, US)
    datatype = even.greenhouse(device_id)
    value = (
        f'{{"request_id":"{request_id(at_us)}","timestamp":"{second_text(second)}.{fraction_us:06d}",'
        f"{datatype.before}21.5{datatype.between}{datatype.metadata}}}"
    )
    return Record(
        partition=partition_of(device_id) if partition is None else partition,
        device_id=device_id,
        event_us=EPOCH_S * US + at_us,
        has_metadata=True,
        value=value.encode(),
    )
