"""The mixed fleet: every legal shape of the contract, as `json.dumps` writes it, about 300 bytes a reading.

Readings come one by one of random devices, not a request's datatypes in a row, so less merges before a flush. A quarter
of the time stamps each is naive, in UTC with `Z`, with an offset, and without a fraction; a quarter of the readings has
lists of units and of flags; 3 % have null metadata, 2 % are late. The shares are those of the samples that the owner's
devices sent. Comparing the text of time stamps is wrong here: the hand-written rows end in another state.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench.texts import LATE_MAX_US, STEP_US, US, Body, request_id, second_text

_LATE_SHARE: Final = 0.02
_NULL_METADATA_SHARE: Final = 0.03
_EXTRA_METADATA_SHARE: Final = 0.16
_NULL_ID_SHARE: Final = 0.07
_NOT_PERSISTED_SHARE: Final = 0.15
_NO_INDEX_SHARE: Final = 0.1
_OFFSET_S: Final = 7_200
_IDS: Final = ("sensor-{}", "pump-{}", "{{rack}}/%20{}", "buoy-é-{}", "hall 3/meter:{}")
_ID_WEIGHTS: Final = (70, 8, 8, 7, 7)


def bodies(rng: random.Random, count: int, devices: int | None, first_device: int, start_us: int) -> Iterator[Body]:
    """Draw `count` readings of `devices` devices, or of a device each; the event time begins at `start_us`."""
    fleet = [_device_id(rng, first_device + n) for n in range(devices or 0)]
    for number in range(count):
        device_id = rng.choice(fleet) if fleet else _device_id(rng, first_device + number)
        at_us = start_us + number * STEP_US
        if rng.random() < _LATE_SHARE:
            at_us -= rng.randrange(LATE_MAX_US)
        step_us, stamp = rng.choice(_STAMPS)
        at_us -= at_us % step_us
        fields = {
            "request_id": request_id(rng.getrandbits(128)),
            "timestamp": stamp(*divmod(at_us, US)),
            "device_id": device_id,
            **rng.choice(_DATATYPES)(rng),
        }
        yield Body(device_id, at_us, fields["metadata"] is not None, json.dumps(fields).encode())


def _device_id(rng: random.Random, number: int) -> str:
    return rng.choices(_IDS, _ID_WEIGHTS)[0].format(number)


#: In steps of how many µs, and how a stamp is written of a second and the µs in it.
_STAMPS: Final[tuple[tuple[int, Callable[[int, int], str]], ...]] = (
    (1, lambda second, us: f"{second_text(second)}.{us:06d}"),
    (1, lambda second, us: f"{second_text(second)}.{us:06d}Z"),
    (1, lambda second, us: f"{second_text(second + _OFFSET_S)}.{us:06d}+02:00"),
    (US, lambda second, _us: second_text(second)),
)


def _datatype(
    index: str, datatype_id: str, unit: Any, *, has_label: bool = True, value_count: int = 1
) -> Callable[[random.Random], dict[str, Any]]:
    is_list = isinstance(unit, list)

    def fields(rng: random.Random) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "datatype_id": None if rng.random() < _NULL_ID_SHARE else datatype_id,
            "datatype_name": index.capitalize(),
            "datatype_unit": unit,
            "persist": [True, False] if is_list else rng.random() >= _NOT_PERSISTED_SHARE,
        }
        if rng.random() < _EXTRA_METADATA_SHARE:
            metadata["gateway"] = {"id": rng.randrange(50), "rssi": -71.5}
        is_null = rng.random() < _NULL_METADATA_SHARE
        named = {} if rng.random() < _NO_INDEX_SHARE else {"index": index}
        values = [round(rng.random() * 100, 2)] * value_count
        return {
            "values": values,
            "label": [index] if has_label else None,
            **named,
            "metadata": None if is_null else metadata,
        }

    return fields


_DATATYPES: Final = (
    _datatype("temperature", "3f0c8d2e", "°C", has_label=False),
    _datatype("humidity", "77a1b0c4", "%"),
    _datatype("battery", "9be2", None),
    _datatype("waves", "c01d", ["m", "s"], value_count=2),
)
