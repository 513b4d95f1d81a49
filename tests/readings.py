"""Seeded records: `generate` for every shape that the contract allows or refuses, `realistic` for benchmarks.

Neither knows an offset: a broker gives them, or `with_offsets` does. Every draft says what it is meant to be, so that
the oracle is held against the generator too. The same arguments give the same drafts.
"""

import itertools
import json
import random
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from tests.oracle import Record

SAMPLES = Path(__file__).parent / "samples"
BASE_MS = 1_795_342_535_000  # 2026-11-22T10:15:35Z, just after samples/validated_output.jsonl
MAX_CLOCK_SKEW_S = 3600  # the setting's default, which the generated event times keep to
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Kind: TypeAlias = Literal["reading", "null_metadata", "tombstone", "bad"]


class Draft(NamedTuple):
    """A record before a broker gave it an offset."""

    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    kind: Kind = "reading"
    why: str = ""
    """Of a bad one: what is wrong with it."""


def with_offsets(drafts: Iterable[Draft]) -> Iterator[Record]:
    """Number the drafts of each partition from 0, as an empty topic does."""
    following: dict[int, int] = {}
    for draft in drafts:
        offset = following.get(draft.partition, 0)
        following[draft.partition] = offset + 1
        yield Record(draft.partition, offset, draft.timestamp_ms, draft.key, draft.value)


def partition_of(key: bytes, partitions: int) -> int:
    """Choose a partition by the key's CRC-32 (not Kafka's murmur2: nothing depends on which)."""
    return zlib.crc32(key) % partitions


def good_samples() -> list[bytes]:
    """Give the values of samples/validated_output.jsonl."""
    return (SAMPLES / "validated_output.jsonl").read_bytes().splitlines()


def bad_samples() -> dict[str, bytes]:
    """Give the values of samples/bad_records.jsonl, by what is wrong with them."""
    lines = [json.loads(line) for line in (SAMPLES / "bad_records.jsonl").read_text("utf-8").splitlines()]
    return {line["why"]: b64decode(line["base64"]) if "base64" in line else line["text"].encode() for line in lines}


# ----------------------------------------------------------------------------------------------------------- device ids

ODD_DEVICE_IDS = (
    "meter/4:B",
    "dev 42 {x}",
    "buoy-é-12",
    "buoy-e\u0301-12",  # looks like the one before, but is another
    "..",
    ".",
    "/",
    "%2F",
    "100%",
    "*",
    "dev?[a-z]\\*",
    'say "hi"',
    "it's",
    "line\nbreak\r\n",
    "\ttab",
    " ",
    " led and trailed ",
    "\u0000nul\u0000",
    "温度計-3",
    "🌡️",
    "\u202eright-to-left",
    "null",
    "true",
    "0",
    "devices",
    "metadata",
    "device:x:metadata",
    ":metadata",
    "stream_cache:tombstone:x",
    "{hash}{tag}",
    "a,b;c&d=e#f?g",
    "x" * 1000,
)


def device_names(count: int) -> list[str]:
    """Give `count` different device ids, every third an odd one while they last."""
    odd = iter(ODD_DEVICE_IDS)
    return [next(odd, f"device-{i:06d}") if i % 3 == 0 else f"device-{i:06d}" for i in range(count)]


# ---------------------------------------------------------------------------------------------------------- event times

_ZONES = tuple(timezone(timedelta(minutes=m)) for m in (120, -330, 345, 0, 60, -720, 840))
_SECOND_US = 1_000_000
_HOUR_US = 3600 * _SECOND_US
_DAY_US = 24 * _HOUR_US

_TimeForm: TypeAlias = Callable[[datetime, random.Random], str]

# How often, in steps of how many µs, in which form. First what devices send, then what Python 3.11 takes besides.
TIME_FORMS: tuple[tuple[int, int, _TimeForm], ...] = (
    (400, 1, lambda t, _: t.isoformat()),
    (100, _SECOND_US, lambda t, _: t.isoformat()),
    (100, 1000, lambda t, _: t.isoformat(timespec="milliseconds")),
    (100, 1, lambda t, _: t.isoformat(timespec="microseconds") + "Z"),
    (50, 1000, lambda t, _: t.isoformat(timespec="milliseconds") + "Z"),
    (50, _SECOND_US, lambda t, _: t.isoformat() + "Z"),
    (100, 1, lambda t, rng: _zoned(t, rng.choice(_ZONES)).isoformat()),
    (50, _SECOND_US, lambda t, rng: _zoned(t, rng.choice(_ZONES)).isoformat()),
    (4, 1, lambda t, _: t.isoformat(" ")),
    (4, 1, lambda t, _: t.isoformat("t", "microseconds")),
    (4, 100_000, lambda t, _: t.isoformat(timespec="microseconds")[:-5]),
    (4, 1, lambda t, rng: t.isoformat(timespec="microseconds") + str(rng.randrange(1000)) + "Z"),
    (4, 1, lambda t, rng: _more_digits(_zoned(t, rng.choice(_ZONES)), rng)),
    (4, 1, lambda t, rng: "".join(_more_digits(_zoned(t, rng.choice(_ZONES)), rng).rsplit(":", 1))),
    (4, 1000, lambda t, _: t.isoformat(timespec="milliseconds").replace(".", ",") + "+00:00"),
    (4, 1, lambda t, _: t.strftime("%Y%m%dT%H%M%S.%fZ")),
    (4, _SECOND_US, lambda t, _: t.strftime("%G-W%V-%uT%H:%M:%S")),
    (4, 1, lambda t, _: _zoned(t, timezone(timedelta(seconds=7230))).isoformat()),
    (4, 60 * _SECOND_US, lambda t, _: t.strftime("%Y-%m-%dT%H:%M-00:00")),
    (2, _HOUR_US, lambda t, _: t.strftime("%Y-%m-%dT%H+00")),
    (2, _DAY_US, lambda t, _: t.strftime("%Y-%m-%d")),
    (1, _DAY_US, lambda t, _: t.strftime("%Y%m%d")),
)
_TIME_WEIGHTS = list(itertools.accumulate(weight for weight, _, _ in TIME_FORMS))


def _more_digits(zoned: datetime, rng: random.Random) -> str:
    """Write one to three digits behind the µs, which are cut off, before the offset."""
    text = zoned.isoformat(timespec="microseconds")
    return f"{text[:-6]}{rng.randrange(1000)}{text[-6:]}"


def _zoned(naive: datetime, zone: timezone) -> datetime:
    return naive.replace(tzinfo=UTC).astimezone(zone)


def time_text(rng: random.Random, event_us: int) -> str:
    """Write an event time in one of the forms that are accepted; a coarse form rounds it down."""
    ((_, step_us, form),) = rng.choices(TIME_FORMS, cum_weights=_TIME_WEIGHTS)
    floored = EPOCH + timedelta(microseconds=event_us - event_us % step_us)
    return form(floored.replace(tzinfo=None), rng)


# -------------------------------------------------------------------------------------------------------- good readings

_OVERRIDES: tuple[Any, ...] = (
    0,
    -7,
    21.5,
    1e22,
    1e-7,
    -0.0,
    2**63,
    10**30,
    True,
    False,
    {},
    [],
    {"id": "x", "nested": {"é": [None, 1.0]}},
    [1, "a", None, {"b": False}],
    {"persist": True, "": 0},
)
_JSON_TEXTS = (  # what no Python value stands for, as `json.dumps` would write another text
    "1.10",
    "0.12345678901234567890123",
    "1E400",
    "-0",
    "12345678901234567890",
    "7" * 5000,
    '["m","s"]',
    '[ "m",\t"s" ]',
    '{"a": 1.10, "a":1.1e+1}',
    '["\\u00b0C", "\\ud800"]',
    '"\\u00b0C\\/"',
)
#: Strings that `value_of` writes such a text in place of.
JSON_TEXTS = tuple(f"@json-{number}@" for number in range(len(_JSON_TEXTS)))
STRINGS_LIKE_JSON = (
    "true",
    "false",
    "null",
    "[1]",
    '["m", "s"]',
    '{"a": 1}',
    "1",
    "1.0",
    '"quoted"',
    "",
    " ",
    "\\u00e9",
    "NaN",
)
_UNITS: tuple[Any, ...] = ("°C", "%", "m/s", "kWh", "", None, None, ["m", "s"], ["°C", None], [], ["µg/m³"])
_PERSISTS: tuple[Any, ...] = (True, True, True, False, None, [True, False], [False], [])
_EXTRA_METADATA: tuple[dict[str, Any], ...] = (
    {"gateway": "gw-3", "rssi": -71},
    {"last_updated": "2000-01-01T00:00:00.000000Z"},  # a gateway's own, not the hash's field
    {"device_id": "someone-else", "_json": "x", "_order": "9" * 20},
    {"deep": {"er": [[[{}]]]}, "": None},
)
_EXTRA_FIELDS: tuple[str, ...] = (  # as JSON text, since some have no Python form that json.dumps writes
    '"label":["temperature"]',
    '"label":null',
    '"labels":["wave height","wave period"],"display_names":["Wave height","Wave period"]',
    '"label":7,"labels":{},"display_names":"x"',
    '"extra":{"a":[1,2,{"b":null}]}',
    '"lone surrogate":"\\ud800"',
    '"beyond a double":[1e400,-1e400]',
    '"key":null,"offset":-1,"partition":"x"',
    '"":""',
    '"\\u0000":"\\u0000\\/"',
    f'"depth":{"[" * 100}{"]" * 100}',
    f'"digits":{"7" * 5000}',
)
_VALUES: tuple[list[Any], ...] = (
    [21.4],
    [55.0],
    [1024, "ok", None],
    [],
    [{"lat": 52.1, "lon": 4.3}],
    [[1, 2], [3]],
    [True],
    [""],
)
_OVERRIDDEN = {
    "request_id": "{}",
    "timestamp": "7",
    "device_id": '""',
    "values": "null",
    "index": "[]",
    "metadata": "[]",
}
_INDEXES = ("temperature", "humidity", "waves", "position", "", "é/:")


def metadata_of(rng: random.Random) -> dict[str, Any]:
    """Draw a metadata object: mostly what the normalizer writes, now and then what a gateway may put in its place."""
    metadata: dict[str, Any] = {
        "datatype_id": rng.choice(("3f0c8d2e-55f0", "a5b7", "gps", None)),
        "datatype_name": rng.choice(("Temperature", "Humidity", "Höhe 温", None)),
        "datatype_unit": rng.choice(_UNITS),
        "persist": rng.choice(_PERSISTS),
    }
    for name in tuple(metadata):
        roll = rng.random()
        if roll < 0.06:
            del metadata[name]
        elif roll < 0.10:
            metadata[name] = rng.choice(_OVERRIDES)
        elif roll < 0.14:
            metadata[name] = rng.choice(STRINGS_LIKE_JSON)
        elif roll < 0.142:
            metadata[name] = "\ud800 alone"
        elif roll < 0.17:
            metadata[name] = rng.choice(JSON_TEXTS)
    if rng.random() < 0.15:
        metadata |= rng.choice(_EXTRA_METADATA)
    if rng.random() < 0.05:
        metadata = dict(reversed(metadata.items()))
    return metadata


def fields_of(rng: random.Random, device_id: str, timestamp: str, metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Draw the fields of a good reading; metadata None is written as null or left out."""
    fields: dict[str, Any] = {
        "request_id": f"{rng.getrandbits(128):032x}" if rng.random() < 0.98 else rng.choice(("", "é", "not a uuid")),
        "timestamp": timestamp,
        "device_id": device_id,
        "values": rng.choice(_VALUES),
    }
    roll = rng.random()
    if roll < 0.8:
        fields["index"] = rng.choice(_INDEXES)
    elif roll < 0.9:
        fields["index"] = None
    if metadata is not None or rng.random() < 0.7:
        fields["metadata"] = metadata
    if rng.random() < 0.05:
        fields = dict(reversed(fields.items()))
    return fields


_ENCODERS = (
    (50, json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)),
    (20, json.JSONEncoder(separators=(",", ":"))),
    (15, json.JSONEncoder(ensure_ascii=False)),
    (5, json.JSONEncoder()),
    (2, json.JSONEncoder(indent=1, ensure_ascii=False)),
)
_ENCODER_WEIGHTS = list(itertools.accumulate(weight for weight, _ in _ENCODERS))


def value_of(rng: random.Random, fields: dict[str, Any]) -> bytes:
    """Write a reading's fields as JSON, in one of the ways that JSON may be written."""
    ((_, encoder),) = rng.choices(_ENCODERS, cum_weights=_ENCODER_WEIGHTS)
    text = re.sub('"@json-([0-9]+)@"', lambda found: _JSON_TEXTS[int(found[1])], encoder.encode(fields))
    if rng.random() < 0.2:
        text = text[:-1] + "," + rng.choice(_EXTRA_FIELDS) + "}"
    if rng.random() < 0.02:
        # A name that comes again: the last one counts, whatever the first one held.
        text = "{" + "".join(f'"{name}":{_OVERRIDDEN.get(name, "0")},' for name in fields) + text[1:]
    if rng.random() < 0.02:
        text = rng.choice((" ", "\n", "\r\n\t")) + text + rng.choice((" ", "\n"))
    return utf8(text)


def utf8(text: str) -> bytes:
    """Encode JSON text, with a lone surrogate escaped: raw it would be no UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


# ----------------------------------------------------------------------------------------------------------- bad values

Fields: TypeAlias = dict[str, Any]
_MakeBad: TypeAlias = Callable[[random.Random, Fields, int], bytes]


def _dump(fields: Fields) -> bytes:
    return utf8(json.dumps(fields, ensure_ascii=False, separators=(",", ":")))


def _replaced(name: str, wrong: object) -> _MakeBad:
    return lambda _rng, fields, _ms: _dump({**fields, name: wrong})


def _without(name: str) -> _MakeBad:
    return lambda _rng, fields, _ms: _dump({key: value for key, value in fields.items() if key != name})


def _ahead(by_us: int) -> _MakeBad:
    def make(_rng: random.Random, fields: Fields, timestamp_ms: int) -> bytes:
        event_time = EPOCH + timedelta(microseconds=timestamp_ms * 1000 + MAX_CLOCK_SKEW_S * _SECOND_US + by_us)
        return _dump({**fields, "timestamp": event_time.replace(tzinfo=None).isoformat()})

    return make


def _around(before: bytes, after: bytes) -> _MakeBad:
    return lambda _rng, fields, _ms: before + _dump(fields) + after


def _with_raw(raw: bytes) -> _MakeBad:
    """Write a field too many, with this in its place of a value."""
    return lambda _rng, fields, _ms: _dump(fields)[:-1] + b',"extra":' + raw + b"}"


def _only(value: bytes) -> _MakeBad:
    return lambda _rng, _fields, _ms: value


def _cut_off(rng: random.Random, fields: Fields, _ms: int) -> bytes:
    whole = _dump(fields)
    return whole[: rng.randrange(1, len(whole))]


def _noise(rng: random.Random, _fields: Fields, _ms: int) -> bytes:
    return b"\xff" + rng.randbytes(rng.randrange(200))


_WRONG: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a bool": True,
    "a list": ["x"],
    "an object": {"a": 1},
    "a str": "x",
    "a float": 1.5,
}
_WRONG_BY_FIELD = {
    "request_id": ("null", "a number", "a bool", "a list", "an object"),
    "timestamp": ("null", "a number", "a float", "a bool", "a list", "an object", "a str"),
    "device_id": ("null", "a number", "a bool", "a list", "an object"),
    "values": ("null", "a number", "a bool", "a str", "an object"),
    "index": ("a number", "a float", "a bool", "a list", "an object"),
    "metadata": ("a number", "a bool", "a list", "a str"),
}
_WRONG_TIMES = (
    "",
    "yesterday",
    "1795340000",
    "1795340000000",
    "2026-13-01T00:00:00",
    "2026-02-29T00:00:00",
    "2026-11-22T24:00:00",
    "2026-11-22T10:15:60",
    "2026-11-22T10:15:30.",
    "2026-11-22T10:15:30z",
    "2026-11-22T10:15:30+24:00",
    "2026-11-22T10:15:30Z ",
    " 2026-11-22T10:15:30",
    "2026-11-22T",
    "2026-11",
    "2026-326",
    "10:15:30",
    "22/11/2026 10:15",
    "Sun, 22 Nov 2026 10:15:30 GMT",
    "\uff12\uff10\uff12\uff16-11-22T10:15:30",
    "1969-12-31T23:59:59.999999",
    "1970-01-01T00:00:00+02:00",
    "1969-12-31",
    "0001-01-01T00:00:00",
    "0001-01-01T00:00:00+23:00",
    "9999-01-01T00:00:00",
    "9999-12-31T23:59:59-23:59",
    "+2026-11-22T10:15:30",
)
_NOT_JSON = {
    "a BOM": _around(b"\xef\xbb\xbf", b""),
    "two objects": _around(b"", b"{}"),
    "a NUL behind": _around(b"", b"\x00"),
    "a no-break space behind": _around(b"", b"\xc2\xa0"),
    "a comment": _around(b"// x\n", b""),
    "in a list": _around(b"[", b"]"),
    "a Confluent header": _around(b"\x00\x00\x00\x00\x07", b""),
    "UTF-16": lambda _rng, fields, _ms: json.dumps(fields).encode("utf-16"),
    "UTF-16 without BOM": lambda _rng, fields, _ms: json.dumps(fields).encode("utf-16-le"),
    "UTF-32": lambda _rng, fields, _ms: json.dumps(fields).encode("utf-32-be"),
    "Latin-1": lambda _rng, fields, _ms: _dump(fields)[:-1] + ',"extra":"é"}'.encode("latin-1"),
    "a Python repr": lambda _rng, fields, _ms: repr(fields).encode(errors="replace"),
    "JSON in a JSON str": lambda _rng, fields, _ms: json.dumps(json.dumps(fields)).encode(),
    "cut off anywhere": _cut_off,
    "noise": _noise,
    "blanks": _only(b" \n"),
    "a str": _only(b'"x"'),
    "a number": _only(b"7"),
    "true": _only(b"true"),
    "deep lists": _only(b"[" * 20_000),
    "deep objects": _only(b'{"a":' * 20_000),
    "deep and closed": _only(b"[" * 20_000 + b"]" * 20_000),
}
_RAW_NOT_JSON = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"[-Infinity]",
    "a leading zero": b"01",
    "a plus": b"+1",
    "no digit before the point": b".5",
    "no digit behind the point": b"1.",
    "hex": b"0x1F",
    "Arabic digits": "٣".encode(),
    "undefined": b"undefined",
    "True": b"True",
    "single quotes": b"'x'",
    "a raw newline in a str": b'"a\nb"',
    "a raw NUL in a str": b'"a\x00b"',
    "a wrong escape": b'"\\x41"',
    "a cut escape": b'"\\u12"',
    "a comma too many": b"[1,]",
    "nothing": b"",
    "invalid UTF-8 in a str": b'"a\xffb"',
    "overlong UTF-8 in a str": b'"\xc0\xaf"',
    "a surrogate as UTF-8": b'"\xed\xa0\x80"',
    "a cut UTF-8 character": b'"\xe2\x82"',
}

BAD_VALUES: dict[str, _MakeBad] = {
    **{f"sample: {why}": _only(value) for why, value in bad_samples().items()},
    **{
        f"{name} is {wrong}": _replaced(name, _WRONG[wrong]) for name, some in _WRONG_BY_FIELD.items() for wrong in some
    },
    **{f"{name} is missing": _without(name) for name in ("request_id", "timestamp", "device_id", "values")},
    **{f"timestamp {text!r}": _replaced("timestamp", text) for text in _WRONG_TIMES},
    **_NOT_JSON,
    **{f"raw: {why}": _with_raw(raw) for why, raw in _RAW_NOT_JSON.items()},
    "device_id is empty": _replaced("device_id", ""),
    "device_id is a lone surrogate": _replaced("device_id", "d\udc80"),
    "a good device_id, then an empty one": lambda _rng, fields, _ms: _dump(fields)[:-1] + b',"device_id":""}',
    "ahead by 1 µs": _ahead(1),
    "ahead by a day": _ahead(_DAY_US),
    "ahead by ten years": _ahead(3650 * _DAY_US),
}
"""What is wrong -> how to make such a value out of a good reading's fields, at a Kafka timestamp (ms) before 2098."""
BAD_TOMBSTONE_KEYS = (None, b"", b"\xff\xfe", b"d\xed\xa0\x80", b"caf\xe9", b"\xc0\xaf")


# ----------------------------------------------------------------------------------------------------------- generators


def generate(
    seed: int, count: int, devices: int, *, partitions: int = 8, bad_share: float = 0.03, base_ms: int | None = None
) -> Iterator[Draft]:
    """Draw `count` drafts over `devices` devices, of every shape that there is.

    The n-th has the Kafka timestamp `base_ms` + n (default `BASE_MS`, 2026-11-22; a test against a running TTL needs
    its own). 2 % are tombstones, and 5 % of null metadata. Of the good readings 15 % are late, up to an hour before the
    record. One reading in 20 has an event time that its device had already; one device in 17 has a clock that is ahead,
    by up to what is allowed, and that too.
    """
    rng = random.Random(seed)
    names = device_names(devices)
    last_event_us: dict[str, int] = {}
    bad_kinds = list(BAD_VALUES)
    start_ms = BASE_MS if base_ms is None else base_ms
    for timestamp_ms in range(start_ms, start_ms + count):
        number = rng.randrange(devices)
        device_id = names[number]
        key: bytes | None = device_id.encode()
        kind = _kind(rng.random(), bad_share)
        why = ""
        value: bytes | None = None
        if kind == "tombstone":
            last_event_us[device_id] = timestamp_ms * 1000
        elif kind == "bad" and rng.random() < 0.1:
            key, why = rng.choice(BAD_TOMBSTONE_KEYS), "tombstone without a readable key"
        else:
            event_us = _event_us(rng, timestamp_ms, last_event_us.get(device_id), has_fast_clock=number % 17 == 5)
            metadata = None if kind == "null_metadata" else metadata_of(rng)
            fields = fields_of(rng, device_id, time_text(rng, event_us), metadata)
            if kind == "bad":
                why = rng.choice(bad_kinds)
                value = BAD_VALUES[why](rng, fields, timestamp_ms)
            else:
                value = value_of(rng, fields)
                last_event_us[device_id] = event_us
            if rng.random() < 0.01:
                key = rng.choice((None, b"", b"another", b"\xff"))
        partition = partition_of(key, partitions) if key else rng.randrange(partitions)
        yield Draft(partition, timestamp_ms, key, value, kind, why)


def _kind(roll: float, bad_share: float) -> Kind:
    if roll < bad_share:
        return "bad"
    if roll < bad_share + 0.02:
        return "tombstone"
    if roll < bad_share + 0.02 + 0.05:
        return "null_metadata"
    return "reading"


def _event_us(rng: random.Random, timestamp_ms: int, last_us: int | None, *, has_fast_clock: bool) -> int:
    now_us = timestamp_ms * 1000
    latest_us = now_us + MAX_CLOCK_SKEW_S * _SECOND_US
    if last_us is not None and rng.random() < 0.05:
        return min(last_us, latest_us)
    if rng.random() < 0.15:
        return now_us - rng.randrange(_HOUR_US)
    if has_fast_clock:
        return latest_us - (0 if rng.random() < 0.1 else rng.randrange(_HOUR_US))
    return now_us - rng.randrange(2 * _SECOND_US)


_DATATYPES = (
    ("temperature", "Temperature", '"°C"'),
    ("humidity", "Humidity", '"%"'),
    ("pressure", "Air pressure", '"hPa"'),
    ("wind", "Wind speed", '["m/s","°"]'),
)


def realistic(
    seed: int, count: int, devices: int, *, partitions: int = 8, base_ms: int | None = None, per_second: int = 10_000
) -> Iterator[Draft]:
    """Draw plain good readings in the shape of samples/validated_output.jsonl, about 350 bytes each; made to be quick.

    Kafka timestamps go up from `base_ms` (default `BASE_MS`) by `per_second` readings a second; event times lie up to
    2 s before. Request ids, values, times and the order of devices are random, a device's metadata stays: gzip finds
    about what it would find in production.
    """
    rng = random.Random(seed)
    uniform, bits = rng.random, rng.getrandbits
    start_ms = BASE_MS if base_ms is None else base_ms
    templates = [_template(rng, number, partitions) for number in range(devices)]
    prefix_of_second: dict[int, str] = {}
    for i in range(count):
        timestamp_ms = start_ms + i * 1000 // per_second
        second, micros = divmod(timestamp_ms * 1000 - int(uniform() * 2e6), _SECOND_US)
        prefix = prefix_of_second.get(second)
        if prefix is None:
            prefix = prefix_of_second[second] = (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")
        partition, key, middle, end = templates[int(uniform() * devices)]
        request = f"{bits(128):032x}"
        text = (
            f'{{"request_id":"{request[:8]}-{request[8:12]}-4{request[13:16]}-a{request[17:20]}-{request[20:]}",'
            f'"timestamp":"{prefix}.{micros:06d}","device_id":"{middle}{uniform() * 100:.2f}{end}'
        )
        yield Draft(partition, timestamp_ms, key, text.encode())


def _template(rng: random.Random, number: int, partitions: int) -> tuple[int, bytes, str, str]:
    """Give a device's partition and key, and what stands before and behind the value that it measures."""
    index, name, unit = _DATATYPES[number % len(_DATATYPES)]
    device_id = f"greenhouse-{number:06d}"
    digits = f"{rng.getrandbits(128):032x}"
    datatype_id = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
    middle = f'{device_id}","values":['
    end = (
        f'],"label":["{index}"],"display_names":["{name}"],"index":"{index}","metadata":{{"datatype_id":"{datatype_id}",'
        f'"datatype_name":"{name}","datatype_unit":{unit},"persist":true}}}}'
    )
    key = device_id.encode()
    return partition_of(key, partitions), key, middle, end
