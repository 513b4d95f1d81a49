"""The simulated fleet: devices of four kinds, and what the normalizer would write of them to the source topic.

No I/O and no clock of its own: the same seed and the same times give the same records. A few reports come late, a few
readings lack their metadata, a few are bad; a device reports several datatypes, each a reading, under one request id.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any, NamedTuple

LATE_SHARE = 0.03
BAD_SHARE = 0.005
WITHOUT_METADATA_SHARE = 0.02
#: How late a late report is: a gateway was offline meanwhile.
LATE_S = (10.0, 300.0)
#: One in so many devices has an id that needs care in a path: `meter/4:B`.
_ODD_EVERY = 25


class Quality(Enum):
    """What a record is meant to be."""

    GOOD = "good"
    LATE = "late"
    WITHOUT_METADATA = "without metadata"
    BAD = "bad"


class FleetRecord(NamedTuple):
    """A record for the source topic.

    `event_time` is aware, in UTC; of a bad record it is the one before it was spoilt. `is_news` says that the record
    is good and its event time later than any before of the device: once a worker has flushed it, Redis shows it.
    """

    device_id: str
    value: bytes
    event_time: datetime
    quality: Quality
    is_news: bool

    @property
    def key(self) -> bytes:
        """The device id: one device lives in one partition."""
        return self.device_id.encode()


class _Datatype(NamedTuple):
    """One of the things that a kind of device measures.

    `name` goes into a reading's `index`; each of `ranges` gives one of its values.
    """

    name: str
    metadata: dict[str, Any]
    ranges: tuple[tuple[float, float], ...]
    labels: tuple[str, ...] = ()

    def values(self, rng: random.Random, levels: list[float]) -> list[Any]:
        """Let the levels drift, and return them as the reading's values."""
        for position, (low, high) in enumerate(self.ranges):
            step = rng.gauss(0, (high - low) / 100)
            levels[position] = min(high, max(low, levels[position] + step))
        return [round(level, 2) for level in levels]


class _StatusRegister(_Datatype):
    """What an old meter says of itself: it has no name, and its values are of several types."""

    def values(self, rng: random.Random, levels: list[float]) -> list[Any]:
        return [int(super().values(rng, levels)[0]), "ok", None]


class _Position(_Datatype):
    """Where a tracker is: one value, an object."""

    def values(self, rng: random.Random, levels: list[float]) -> list[Any]:
        latitude, longitude = super().values(rng, levels)
        return [{"lat": latitude, "lon": longitude}]


class _Kind(NamedTuple):
    """A kind of device: how its ids look, how it writes times, what it measures."""

    device_id: Callable[[int], str]
    odd_device_id: Callable[[int], str]
    write_time: Callable[[datetime], str]
    datatypes: tuple[_Datatype, ...]


def _datatype(number: int, name: str, unit: Any, *, persist: Any = True, **extra: Any) -> dict[str, Any]:
    datatype_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"datatype {number}"))
    return {"datatype_id": datatype_id, "datatype_name": name, "datatype_unit": unit, "persist": persist, **extra}


_NAMELESS = {"datatype_id": None, "datatype_name": None, "datatype_unit": None, "persist": False}
_GATEWAY = {"gateway": "gw-3", "rssi": -71}
_GREENHOUSE = _Kind(
    "greenhouse-{:02}".format,
    "greenhouse {} (north, 100 %)".format,
    lambda time: time.replace(tzinfo=None).isoformat(),
    (
        _Datatype("temperature", _datatype(1, "Temperature", "°C"), ((14, 32),), ("temperature",)),
        _Datatype("humidity", _datatype(2, "Humidity", "%"), ((35, 90),), ("humidity",)),
        _Datatype("soil", _datatype(3, "Soil moisture", "%"), ((10, 60),), ("soil moisture",)),
    ),
)
_METER = _Kind(
    "meter-{:02}".format,
    "meter/{}:B".format,
    lambda time: time.replace(tzinfo=None, microsecond=0).isoformat(),
    (
        _StatusRegister("", _NAMELESS, ((0, 4096),)),
        _Datatype("energy", _datatype(4, "Energy", "kWh"), ((0, 9000),), ("energy",)),
        _Datatype("power", _datatype(5, "Power", "W", persist=False), ((0, 3500),), ("power",)),
    ),
)
_BUOY = _Kind(
    "buoy-{:02}".format,
    "buoy-é-{}".format,
    lambda time: time.astimezone(timezone(timedelta(hours=2))).isoformat(),
    (
        _Datatype(
            "waves",
            _datatype(6, "Waves", ["m", "s"], persist=[True, False], **_GATEWAY),
            ((0.2, 6), (2, 12)),
            ("wave height", "wave period"),
        ),
        _Datatype("water", _datatype(7, "Water temperature", "°C", **_GATEWAY), ((4, 21),), ("water temperature",)),
    ),
)
_TRACKER = _Kind(
    "tracker-{:02}".format,
    "dev {} {{x}}".format,
    lambda time: time.isoformat().replace("+00:00", "Z"),
    (
        _Position("position", _datatype(8, "Position", None), ((51.9, 52.4), (4.1, 4.9))),
        _Datatype("speed", _datatype(9, "Speed", "km/h"), ((0, 120),), ("speed",)),
        _Datatype("battery", _datatype(10, "Battery", "%"), ((5, 100),), ("battery",)),
    ),
)
_KINDS = (_GREENHOUSE, _METER, _BUOY, _TRACKER)
#: The first devices of every fleet, those of the project's samples.
_NAMED = (("greenhouse-07", _GREENHOUSE), ("meter/4:B", _METER), ("buoy-é-12", _BUOY), ("dev 42 {x}", _TRACKER))


def _spoil(how: int, body: dict[str, Any]) -> bytes:
    text = json.dumps(body)
    spoilt: tuple[str | dict[str, Any], ...] = (
        text[: len(text) // 2],
        "temperature=21.4",
        "null",
        {name: value for name, value in body.items() if name != "device_id"},
        body | {"device_id": ""},
        body | {"timestamp": "yesterday"},
        body | {"timestamp": "2099-01-01T00:00:00"},
        body | {"metadata": [1]},
        body | {"values": [float("nan")]},  # json.dumps writes NaN, which is not JSON
    )
    chosen = spoilt[how % len(spoilt)]
    return (chosen if isinstance(chosen, str) else json.dumps(chosen)).encode()


class Fleet:
    """Devices that report.

    Each device reports once, in order, then whichever chance takes. The first report of each of the first four devices
    is faultless, so that examples can be shown at once.

    Args:
        device_count: at least 1.
        seed: decides everything.
    """

    def __init__(self, device_count: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._devices: list[tuple[str, _Kind]] = [*_NAMED[:device_count]]
        for number in range(len(self._devices), device_count):
            kind = _KINDS[number % len(_KINDS)]
            is_odd = number % _ODD_EVERY == 0
            # From 100 on, so that no number meets a named device's.
            self._devices.append(((kind.odd_device_id if is_odd else kind.device_id)(100 + number), kind))
        self._levels: dict[tuple[str, str], list[float]] = {}
        self._latest: dict[str, datetime] = {}
        self._report_count = 0
        self._bad_count = 0

    @property
    def device_ids(self) -> list[str]:
        """Every device's id; the first is plain, the next three are odd."""
        return [device_id for device_id, _ in self._devices]

    def report(self, now: datetime) -> list[FleetRecord]:
        """Return the next device's report at a time (aware): one record or more, all of one request and event time."""
        rng, number = self._rng, self._report_count
        self._report_count += 1
        is_faultless = number < len(_NAMED)
        device_id, kind = self._devices[number] if number < len(self._devices) else rng.choice(self._devices)
        is_late = not is_faultless and rng.random() < LATE_SHARE
        event_time = now.astimezone(UTC) - timedelta(seconds=rng.uniform(*LATE_S) if is_late else 0)
        written_time = kind.write_time(event_time)
        event_time = datetime.fromisoformat(written_time)
        event_time = event_time.astimezone(UTC) if event_time.tzinfo else event_time.replace(tzinfo=UTC)
        request_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        records = []
        for datatype in rng.sample(kind.datatypes, rng.randint(1, len(kind.datatypes))):
            body = {
                "request_id": request_id,
                "timestamp": written_time,
                "device_id": device_id,
                "values": datatype.values(rng, self._levels_of(device_id, datatype)),
                "label": list(datatype.labels) or None,
                "index": datatype.name,
                "metadata": datatype.metadata,
            }
            quality = Quality.LATE if is_late else Quality.GOOD
            if not is_faultless:
                quality = self._fault() or quality
            if quality is Quality.BAD:
                value = _spoil(self._bad_count, body)
                self._bad_count += 1
            else:
                without = {"metadata": None} if quality is Quality.WITHOUT_METADATA else {}
                value = json.dumps(body | without, ensure_ascii=False, separators=(",", ":")).encode()
            is_news = quality is Quality.GOOD and event_time > self._latest.get(
                device_id, datetime.min.replace(tzinfo=UTC)
            )
            if is_news:
                self._latest[device_id] = event_time
            records.append(FleetRecord(device_id, value, event_time, quality, is_news))
        return records

    def _fault(self) -> Quality | None:
        chance = self._rng.random()
        if chance < BAD_SHARE:
            return Quality.BAD
        return Quality.WITHOUT_METADATA if chance < BAD_SHARE + WITHOUT_METADATA_SHARE else None

    def _levels_of(self, device_id: str, datatype: _Datatype) -> list[float]:
        key = (device_id, datatype.name)
        if key not in self._levels:
            self._levels[key] = [self._rng.uniform(low, high) for low, high in datatype.ranges]
        return self._levels[key]
