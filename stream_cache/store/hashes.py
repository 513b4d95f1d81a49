"""A device's metadata as its Redis hash keeps it: texts in, JSON out.

Each field is a text of the kind it usually is: plain, but for the flag `persist`, which is JSON. A hash names those of
the other kind in its field `_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stream_cache.readings.json_text import is_json
from stream_cache.readings.metadata import Metadata
from stream_cache.readings.wire import AnyList

_FIELDS = Metadata.__struct_fields__
#: The kind of text each field usually holds; a hash names those that differ in its field `_json`.
_USUALLY_JSON = {"persist"}
_COMMON_JSON = {b"true", b"false"}
_PLAIN = frozenset({str, type(None)})
_A_LIST = AnyList()

_read: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(str | bool | AnyList | None).decode
_write = msgspec.json.Encoder().encode


class Device(NamedTuple):
    """A device's metadata as it is kept: JSON texts, ready to be sent; None for null."""

    device_id: str
    fields: Mapping[str, msgspec.Raw | str | None]
    last_updated: str


def to_texts(metadata: Metadata) -> tuple[str | None, ...]:
    """Return the text of each field, None for an absent one, and last the names whose kind is not the usual one.

    A string is its own text, null is absent; of anything else the text is the JSON as it came.
    """
    try:
        of, name = _read(metadata.datatype_id), _read(metadata.datatype_name)
        unit, persist = _read(metadata.datatype_unit), _read(metadata.persist)
    except (ValueError, RecursionError):
        of, name, unit, persist = map(_read_any, msgspec.structs.astuple(metadata))
    odd = ""
    if type(of) not in _PLAIN:
        of, odd = _json_text(metadata.datatype_id), "datatype_id"
    if type(name) not in _PLAIN:
        name, odd = _json_text(metadata.datatype_name), f"{odd} datatype_name"
    if type(unit) not in _PLAIN:
        unit, odd = _json_text(metadata.datatype_unit), f"{odd} datatype_unit"
    if persist is True or persist is None:
        persist = "true"
    elif type(persist) is str:
        odd += " persist"
    else:
        persist = _json_text(metadata.persist)
    return of, name, unit, persist, odd.lstrip() or None


def _read_any(raw: msgspec.Raw) -> Any:
    """Read a field's text or null; anything else, half of a surrogate pair too, is a list as well as any."""
    try:
        return _read(raw)
    except (ValueError, RecursionError):
        return _A_LIST


def _json_text(raw: msgspec.Raw) -> str:
    return _write(raw).decode()  # a third of the time of `bytes(raw)`


def to_device(device_id: str, fields: Sequence[bytes | None]) -> Device:
    """Return the device of a hash: `last_updated`, the four fields and `_json`, each as it was read, None if absent."""
    last_updated, *values, odd = fields
    odd_names = set(odd.decode(errors="replace").split()) if odd else ()
    return Device(
        device_id,
        {
            name: _value(value, may_be_json=(name in _USUALLY_JSON) != (name in odd_names))
            for name, value in zip(_FIELDS, values, strict=True)
        },
        (last_updated or b"").decode(errors="replace"),
    )


def _value(text: bytes | None, *, may_be_json: bool) -> msgspec.Raw | str | None:
    if text is None:
        return None
    # Whether it is what we wrote is checked: somebody else may have written into the hash.
    if may_be_json and (text in _COMMON_JSON or is_json(text)):
        return msgspec.Raw(text)
    return text.decode(errors="replace")
