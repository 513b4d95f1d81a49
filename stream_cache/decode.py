"""Record bytes -> reading, or a `BadRecord` that says why.

Two readers of the same contract (section 1). The fast one is msgspec, typed, and takes only what it is sure of: the
usual shapes. Whatever it does not take goes to the exact one, `_judge`, slower and in plain words, which alone may
call a record bad. A property test holds the two together.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, NoReturn, get_type_hints

import msgspec

from stream_cache.errors import BadRecord
from stream_cache.models import (
    Metadata,
    Reading,
    SourceRecord,
    ValidatedOutput,
    is_unicode,
    json_text,
    refuse_constant,
)

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - event times are naive UTC throughout: comparing those is cheapest
_YEARS = range(1970, 9999)
_LAST_MOMENT = datetime(9998, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001 - as above
#: Python 3.13 began to take midnight as 24:00, which is none of the contract's times.
_TAKES_24 = sys.version_info >= (3, 13)
_says_24 = re.compile(r".{7,10}\D24").match
_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    msgspec.Raw: "a number",
    type(None): "null",
}
#: Python refuses to turn longer digit strings into an int (its guard against quadratic time).
_MAX_INT_DIGITS = 4300


class DecodedChunk(msgspec.Struct):
    """What became of the records of a chunk; `bad` is in their order."""

    reading_count: int = 0
    tombstone_count: int = 0
    without_metadata_count: int = 0
    bad: list[tuple[SourceRecord, BadRecord]] = []


def decode_chunk(
    records: Sequence[SourceRecord], max_clock_skew_s: float, keep: Callable[[Reading], None]
) -> DecodedChunk:
    """Decode every record of a chunk. Never raises: what is bad stands in the result, with its reason.

    Each reading with metadata, and each tombstone, is handed to `keep` at once. What isn't kept is freed while it is
    still in the processor's cache; a list of all of them took a quarter longer.
    """
    chunk = DecodedChunk()
    skew = timedelta(seconds=max_clock_skew_s)
    # One limit for all: what lies within the earliest record's limit lies within its own.
    safe_limit = min(_kafka_time(min(map(_timestamp, records), default=0), skew), _LAST_MOMENT)
    for record in records:
        value = record.value
        try:
            if value is None:
                keep(_tombstone(record))
                chunk.tombstone_count += 1
                continue
            try:
                if not value.isascii():
                    value.decode()  # the fast decoder doesn't look into texts that it skips
                wire = _decode_fast(value)
                event_time = _parse_iso(wire.timestamp)
                is_usual = event_time.tzinfo is None and _EPOCH <= event_time <= safe_limit
                if not is_usual or (_TAKES_24 and event_time.hour == 0):
                    event_time = _in_utc(event_time, wire.timestamp)
            except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
                wire, event_time = _judge(value)
            if event_time > safe_limit:
                _check_clock(event_time, record, skew, wire.request_id)
        except BadRecord as bad:
            chunk.bad.append((record, bad))
            continue
        except Exception as error:  # noqa: BLE001 - told in full; raised, it would stop the partition for ever
            fault = f"value: the service failed to judge it, which is a fault of the service: {error!r:.300}"
            chunk.bad.append((record, BadRecord("internal_error", fault)))
            continue
        if wire.metadata is not None:
            keep(Reading(wire.device_id, event_time, wire.metadata, record))
        else:
            chunk.without_metadata_count += 1
    chunk.reading_count = len(records) - chunk.tombstone_count - chunk.without_metadata_count - len(chunk.bad)
    return chunk


class _AnyList(msgspec.Struct, array_like=True, gc=False):
    """A JSON list; msgspec skips the items that an array-like struct has no fields for."""


def _wire_type() -> type[Any]:
    """Derive the fast decoder's type from `ValidatedOutput`: its judged fields, with the same names and defaults."""
    not_empty = Annotated[str, msgspec.Meta(min_length=1)]
    precise = {"device_id": not_empty, "values": _AnyList, "metadata": Metadata | None}
    defaults = ValidatedOutput._options.defaults  # noqa: SLF001 - Faust's only way to ask a Record for its defaults
    judged = [
        (name, precise.get(name, annotation), *([defaults[name]] if name in defaults else []))
        for name, annotation in get_type_hints(ValidatedOutput).items()
        if name in ValidatedOutput._options.fields and annotation is not Any  # noqa: SLF001 - as above
    ]
    return msgspec.defstruct("Wire", judged, gc=False)


_Wire = _wire_type()
_decode_fast = msgspec.json.Decoder(_Wire).decode
_parse_iso = datetime.fromisoformat
_timestamp = attrgetter("timestamp")


def _parse_event_time(text: str) -> datetime:
    """ISO 8601 text -> naive UTC, as the `datetime.fromisoformat` of Python 3.11 takes it.

    Raises: ValueError saying what is wrong with the text.
    """
    return _in_utc(_parse_iso(text), text)


def _in_utc(moment: datetime, text: str) -> datetime:
    """Make a parsed time naive UTC. Raises: ValueError where the contract doesn't take its text."""
    if moment.year not in _YEARS:
        raise ValueError(f"the year {moment.year} is not in 1970 to 9998")
    if _TAKES_24 and moment.hour == 0 and _says_24(text):
        raise ValueError("hour must be in 0..23")
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _kafka_time(timestamp_ms: int, later: timedelta = timedelta()) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=timestamp_ms) + later
    except OverflowError:  # a producer may send any 64-bit number
        return datetime.max if timestamp_ms > 0 else datetime.min  # noqa: DTZ901 - naive UTC, as all event times


def _check_clock(event_time: datetime, record: SourceRecord, skew: timedelta, request_id: str) -> None:
    limit = _kafka_time(record.timestamp, skew)
    if event_time > limit:
        ahead = event_time - _kafka_time(record.timestamp)
        raise BadRecord(
            "clock_ahead",
            f"timestamp: {event_time.isoformat()}Z is {ahead} ahead of the record's Kafka timestamp; "
            f"MAX_CLOCK_SKEW_S allows {skew}: is the device's clock wrong?",
            request_id,
        )


def _tombstone(record: SourceRecord) -> Reading:
    if not record.key:
        raise BadRecord("bad_key", "key: a tombstone (null value) names its device by the record's key, which is empty")
    try:
        device_id = record.key.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("bad_key", f"key: a tombstone's key must be a device id in UTF-8: {error}") from None
    return Reading(device_id, _kafka_time(record.timestamp), None, record)


def _judge(value: bytes) -> tuple[Any, datetime]:
    """Read a record exactly as the contract says. Slow: for what the fast decoder leaves, and for the bad.

    Raises: BadRecord for the first thing that is wrong.
    """
    body = _parse_object(value)
    request_id = body.get("request_id")

    def refuse(kind: str, reason: str) -> NoReturn:
        raise BadRecord(kind, reason, request_id if isinstance(request_id, str) else None)

    def check(name: str, *allowed: type, required: bool = True) -> Any:
        if name not in body and required:
            refuse("missing_field", f"{name}: required, but missing")
        held = body.get(name)
        if type(held) not in allowed:
            may_be = " or ".join(_JSON_TYPES[kind] for kind in allowed)
            refuse("wrong_type", f"{name}: must be {may_be}, is {_JSON_TYPES[type(held)]}")
        return held

    check("request_id", str)
    timestamp = check("timestamp", str)
    device_id = check("device_id", str)
    check("values", list)
    index = check("index", str, type(None), required=False)
    metadata = check("metadata", dict, type(None), required=False)
    if not device_id:
        refuse("empty_device_id", "device_id: must not be empty")
    if not is_unicode(device_id):
        refuse("wrong_type", "device_id: holds half of a surrogate pair, which is no Unicode text")
    try:
        event_time = _parse_event_time(timestamp)
    except ValueError as error:
        refuse("bad_timestamp", f"timestamp: {timestamp[:100]!r} is no ISO 8601 date and time: {error}"[:400])
    try:
        kept = None if metadata is None else Metadata(*map(_kept, map(metadata.get, Metadata.__struct_fields__)))
    except RecursionError:
        refuse("not_json", "metadata: nested too deeply to be kept")
    return _Wire(request_id, timestamp, device_id, body["values"], index, kept), event_time


def _kept(value: Any) -> Any:
    """A text or null as it is; any other JSON value as its text, exactly."""
    if value is None or (isinstance(value, str) and is_unicode(value)):
        return value
    return msgspec.Raw(json_text(value).encode())


def _parse_object(value: bytes) -> dict[str, Any]:
    try:
        body = json.loads(
            value.decode(), parse_constant=refuse_constant, parse_float=_parse_float, parse_int=_parse_int
        )
    except UnicodeDecodeError as error:
        raise BadRecord("not_json", f"value: not UTF-8, so no JSON: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadRecord("not_json", "value: nested too deeply to be read") from None
    except ValueError as error:
        reason = "it is empty" if not value else str(error)
        raise BadRecord("not_json", f"value: not JSON: {reason}") from None
    if not isinstance(body, dict):
        raise BadRecord("not_an_object", f"value: must be a JSON object, is {_JSON_TYPES[type(body)]}")
    return body


def _parse_float(digits: str) -> float | msgspec.Raw:
    """Keep a number that no float can hold (1e999) as the text it came as."""
    number = float(digits)
    return number if math.isfinite(number) else msgspec.Raw(digits.encode())


def _parse_int(digits: str) -> int | msgspec.Raw:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else msgspec.Raw(digits.encode())
