"""The even fleet: the shapes of the contract's samples, about 350 bytes a reading; a request's datatypes in a row.

3 % late by up to 30 s, 2 % with null metadata, one time stamp in 50 without its fraction. A device always writes its
time stamps in one style (naive, `Z` or `+02:00`) and its datatypes agree on which metadata fields are null. Hence
comparing the text of time stamps, and an HSET over an older hash, are right here as in most real fleets: the
hand-written rows may do both, and end in the same state as a row that handles every case.
"""

import json
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.texts import LATE_MAX_US, STEP_US, US, Body, compact, request_id, second_text

_LATE_SHARE: Final = 0.03
_NO_FRACTION_SHARE: Final = 0.02
_NULL_METADATA_SHARE: Final = 0.02


class Datatype(NamedTuple):
    """The JSON text of one datatype's readings: a number follows `before`, the metadata (or null) `between`."""

    before: str
    between: str
    metadata: str


class _Device(NamedTuple):
    device_id: str
    shift_s: int  # how far its clock face is ahead of UTC
    zone: str
    may_drop_fraction: bool
    datatypes: list[Datatype]


def bodies(rng: random.Random, count: int, devices: int | None, first_device: int, start_us: int) -> Iterator[Body]:
    """Draw `count` readings of `devices` devices, or of a device each; the event time begins at `start_us`."""
    fleet = [_device(first_device + n, rng) for n in range(devices or 0)]
    produced = request = 0
    while produced < count:
        device = rng.choice(fleet) if fleet else _device(first_device + produced, rng)
        at_us = start_us + request * STEP_US
        if rng.random() < _LATE_SHARE:
            at_us -= rng.randrange(LATE_MAX_US)
        elif device.may_drop_fraction and rng.random() < _NO_FRACTION_SHARE:
            at_us -= at_us % US
        second, fraction_us = divmod(at_us, US)
        text = second_text(second + device.shift_s)
        if fraction_us or not device.may_drop_fraction:
            text = f"{text}.{fraction_us:06d}"
        head = f'{{"request_id":"{request_id(rng.getrandbits(128))}","timestamp":"{text}{device.zone}",'
        for datatype in device.datatypes[: count - produced] if fleet else device.datatypes[:1]:
            has_metadata = rng.random() >= _NULL_METADATA_SHARE
            metadata = datatype.metadata if has_metadata else "null"
            value = f"{head}{datatype.before}{rng.random() * 100:.2f}{datatype.between}{metadata}}}"
            yield Body(device.device_id, at_us, has_metadata, value.encode())
            produced += 1
        request += 1


def greenhouse(device_id: str) -> Datatype:
    """Give the first datatype of a greenhouse."""
    return _datatypes(device_id, "greenhouse", gateway=0)[0]


def _device(number: int, rng: random.Random) -> _Device:
    family, pattern = rng.choices(_FAMILIES, _FAMILY_WEIGHTS)[0]
    device_id = pattern.format(number)
    zone = rng.choices(("", "Z", "+02:00"), (92, 5, 3))[0]
    return _Device(
        device_id=device_id,
        shift_s=7_200 if zone == "+02:00" else 0,
        zone=zone,
        # As text, "…:31Z" sorts after "…:31.5Z", the wrong way round; the other two styles sort right.
        may_drop_fraction=zone != "Z",
        datatypes=_datatypes(device_id, family, gateway=number % 50),
    )


def _datatypes(device_id: str, family: str, gateway: int) -> list[Datatype]:
    """The records that one request of such a device makes, one per datatype."""
    quoted = json.dumps(device_id, ensure_ascii=False)
    return [
        Datatype(
            before=f'"device_id":{quoted},"values":[{opening}',
            between=f'{closing}],"label":{label},"index":"{index}","metadata":',
            metadata=metadata.replace("gw-0", f"gw-{gateway}"),
        )
        for index, opening, closing, label, metadata in _SHAPES[family]
    ]


def _scalar(index: str, name: str, unit: str, datatype_id: str) -> tuple[str, str, str, str, str]:
    metadata = {"datatype_id": datatype_id, "datatype_name": name, "datatype_unit": unit, "persist": True}
    return index, "", "", f'["{index}"],"display_names":["{name}"]', compact(metadata)


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
            compact(
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
            compact({"datatype_id": "gps", "datatype_name": "Position", "persist": True, "datatype_unit": None}),
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
