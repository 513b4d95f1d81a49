"""Seeded readings for the benchmarks, and what Redis must hold once all of them are through.

Shapes: those of the contract's samples, about 350 bytes a reading; one request gives one record per datatype of its
device; 3 % late by up to 30 s, 2 % with null metadata, one time stamp in 50 without its fraction. Event times lie in
the past, so no clock can make one a bad record.

A device always writes its time stamps in one style (naive, `Z` or `+02:00`) and its datatypes agree on which metadata
fields are null. Hence comparing the text of time stamps, and an HSET over an older hash, are right here as in most real
fleets: the hand-written rows may do both, and end in the same state as a row that handles every case.

The last record of each partition is the newest of a sentinel device of its own: whoever sees its event time in Redis
knows that the partition has been consumed to its end.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from confluent_kafka import Producer

PARTITIONS: Final = 8
SEED: Final = 20_261_122
SAMPLED_DEVICES: Final = 200  # devices whose final state is compared field by field

_US: Final = 1_000_000
_EPOCH_S: Final = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
_STEP_US: Final = 997  # event time between two requests: about a thousand requests a second
_LATE_SHARE: Final = 0.03
_LATE_MAX_US: Final = 30 * _US
_NO_FRACTION_SHARE: Final = 0.02
_NULL_METADATA_SHARE: Final = 0.02
METADATA_FIELDS: Final = ("datatype_id", "datatype_name", "datatype_unit", "persist")


@dataclass(frozen=True, slots=True)
class Workload:
    """How many readings of how many devices; `devices=None` makes every reading one of a device of its own."""

    name: str
    readings: int
    devices: int | None
    seed: int = SEED
    first_device: int = 0  # ids are numbered from here: another fleet
    start_s: int = 0  # event times begin this much later: the same fleet again, newer


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


class _Datatype(NamedTuple):
    """The JSON text of one datatype's readings: a number follows `before`, the metadata (or null) `between`."""

    before: str
    between: str
    metadata: str


class _Device(NamedTuple):
    device_id: str
    partition: int
    shift_s: int  # how far its clock face is ahead of UTC
    zone: str
    may_drop_fraction: bool
    datatypes: list[_Datatype]


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
    return whole_s * _US + parsed.microsecond


def records(workload: Workload) -> Iterator[Record]:
    """Every record of the workload, in the order of production. The same seed gives the same bytes."""
    rng = random.Random(workload.seed)
    body_count = max(0, workload.readings - PARTITIONS)  # the rest are the sentinels'
    fleet = [_device(workload.first_device + n, rng) for n in range(workload.devices or 0)]
    second_text = lru_cache(maxsize=None)(_second_text)
    start_us = workload.start_s * _US
    produced = request = 0
    while produced < body_count:
        device = rng.choice(fleet) if fleet else _device(workload.first_device + produced, rng)
        at_us = start_us + request * _STEP_US
        if rng.random() < _LATE_SHARE:
            at_us -= rng.randrange(_LATE_MAX_US)
        elif device.may_drop_fraction and rng.random() < _NO_FRACTION_SHARE:
            at_us -= at_us % _US
        second, fraction_us = divmod(at_us, _US)
        text = second_text(second + device.shift_s)
        if fraction_us or not device.may_drop_fraction:
            text = f"{text}.{fraction_us:06d}"
        head = f'{{"request_id":"{_request_id(rng.getrandbits(128))}","timestamp":"{text}{device.zone}",'
        for datatype in device.datatypes[: body_count - produced] if fleet else device.datatypes[:1]:
            has_metadata = rng.random() >= _NULL_METADATA_SHARE
            metadata = datatype.metadata if has_metadata else "null"
            value = f"{head}{datatype.before}{rng.random() * 100:.2f}{datatype.between}{metadata}}}"
            yield Record(device.partition, device.device_id, _EPOCH_S * _US + at_us, has_metadata, value.encode())
            produced += 1
        request += 1
    yield from _sentinels(workload, workload.readings - produced, workload.start_s + request * _STEP_US // _US + 1)


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


def _request_id(bits: int) -> str:
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _second_text(second: int) -> str:
    return datetime.fromtimestamp(_EPOCH_S + second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _sentinel_id(workload: Workload, partition: int) -> str:
    return f"sentinel-{workload.first_device}-{partition}"


def _sentinels(workload: Workload, count: int, second: int) -> Iterator[Record]:
    """One record of a device of its own for each of the first `count` partitions, newer than all before."""
    for partition in range(count):
        yield record_at(_sentinel_id(workload, partition), second * _US, partition)


def record_at(device_id: str, at_us: int, partition: int | None = None) -> Record:
    """Make a greenhouse's reading at a chosen event time, in microseconds after the time where workloads begin."""
    second, fraction_us = divmod(at_us, _US)
    datatype = _datatypes(device_id, "greenhouse", gateway=0)[0]
    value = (
        f'{{"request_id":"{_request_id(at_us)}","timestamp":"{_second_text(second)}.{fraction_us:06d}",'
        f"{datatype.before}21.5{datatype.between}{datatype.metadata}}}"
    )
    return Record(
        partition=partition_of(device_id) if partition is None else partition,
        device_id=device_id,
        event_us=_EPOCH_S * _US + at_us,
        has_metadata=True,
        value=value.encode(),
    )


def _device(number: int, rng: random.Random) -> _Device:
    family, pattern = rng.choices(_FAMILIES, _FAMILY_WEIGHTS)[0]
    device_id = pattern.format(number)
    zone = rng.choices(("", "Z", "+02:00"), (92, 5, 3))[0]
    return _Device(
        device_id=device_id,
        partition=partition_of(device_id),
        shift_s=7_200 if zone == "+02:00" else 0,
        zone=zone,
        # As text, "…:31Z" sorts after "…:31.5Z", the wrong way round; the other two styles sort right.
        may_drop_fraction=zone != "Z",
        datatypes=_datatypes(device_id, family, gateway=number % 50),
    )


def _datatypes(device_id: str, family: str, gateway: int) -> list[_Datatype]:
    """The records that one request of such a device makes, one per datatype."""
    quoted = json.dumps(device_id, ensure_ascii=False)
    return [
        _Datatype(
            before=f'"device_id":{quoted},"values":[{opening}',
            between=f'{closing}],"label":{label},"index":"{index}","metadata":',
            metadata=metadata.replace("gw-0", f"gw-{gateway}"),
        )
        for index, opening, closing, label, metadata in _SHAPES[family]
    ]


def _scalar(index: str, name: str, unit: str, datatype_id: str) -> tuple[str, str, str, str, str]:
    metadata = {"datatype_id": datatype_id, "datatype_name": name, "datatype_unit": unit, "persist": True}
    return index, "", "", f'["{index}"],"display_names":["{name}"]', _compact(metadata)


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# By family: index, what stands before and after the number among the values, label, metadata.
_SHAPES: Final = {
    "greenhouse": [
        _scalar("temperature", "Temperature", "°C", "3f0c8d2e-55f0-4b52-b8a4-6c1f5a4a9e11"),
        _scalar("humidity", "Humidity", "%", "a5b7a0e4-0a64-4d9f-9f0f-7e0b5a1d2c22"),
        _scalar("pressure", "Air pressure", "hPa", "0d1f6f54-8c0e-4d0b-8f0a-94c1b6b0a733"),
    ],
    "meter": [
        ("", "", ',"ok",null', "null", '{"datatype_id":null,"datatype_name":null,"datatype_unit":null,"persist":false}')
    ],
    "buoy": [
        (
            "waves",
            "4.2,",
            "",
            '["wave height","wave period"],"display_names":["Wave height","Wave period"]',
            _compact(
                {
                    "datatype_id": "b1c2",
                    "datatype_name": "Waves",
                    "datatype_unit": ["m", "s"],
                    "persist": [True, False],
                    "gateway": "gw-0",
                    "rssi": -71,
                }
            ),
        )
    ],
    "tracker": [
        (
            "position",
            '{"lat":52.1,"lon":',
            "}",
            '["position"]',
            _compact({"datatype_id": "gps", "datatype_name": "Position", "persist": True, "datatype_unit": None}),
        )
    ],
}
_FAMILIES: Final = (
    ("greenhouse", "greenhouse-{}"),
    ("buoy", "buoy-é-{}"),
    ("meter", "meter/{}:B"),
    ("tracker", "dev {} {{x}}"),
)
_FAMILY_WEIGHTS: Final = (80, 10, 5, 5)
