"""The exact reader of a record's value: plain and slow, it alone calls one bad (the contract, section 1)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from stream_cache.errors import BadRecord
from stream_cache.readings.json_text import is_unicode, refuse_constant
from stream_cache.readings.times import parse_event_time
from stream_cache.readings.wire import AnyList, AnyObject, Wire

_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    float: "a number",
    type(None): "null",
}
# Numbers are only examined for being some: an int of more than 4,300 digits would be refused by Python.
_read_json = json.JSONDecoder(parse_constant=refuse_constant, parse_int=float).decode


def judge(value: bytes) -> tuple[Wire, datetime]:
    """Read a record exactly as the contract says, and its event time. For what the fast decoder leaves, and the bad.

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
        refuse("wrong_type", "device_id: holds half of a surrogate pair, which is not Unicode text")
    try:
        event_time = parse_event_time(timestamp)
    except ValueError as error:
        refuse("bad_timestamp", f"timestamp: {timestamp[:100]!r} is not an ISO 8601 date-time: {error}"[:400])
    kept = None if metadata is None else AnyObject()
    return Wire(body["request_id"], timestamp, device_id, AnyList(), index, kept), event_time


def _parse_object(value: bytes) -> dict[str, Any]:
    try:
        body = _read_json(value.decode())
    except UnicodeDecodeError as error:
        raise BadRecord("not_json", f"value: not valid JSON: not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadRecord("not_json", "value: nested too deeply to be read") from None
    except ValueError as error:
        reason = "it is empty" if not value else str(error)
        raise BadRecord("not_json", f"value: not valid JSON: {reason}") from None
    if not isinstance(body, dict):
        raise BadRecord("not_an_object", f"value: must be a JSON object, is {_JSON_TYPES[type(body)]}")
    return body
