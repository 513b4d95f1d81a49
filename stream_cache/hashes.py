"""A device's metadata as its Redis hash keeps it: texts in, JSON out.

Each field is a text of the kind it usually is: plain, but for the flag `persist`, which is JSON. A hash names those of
the other kind in its field `_json`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from stream_cache.models import Metadata, is_json, json_text

_FIELDS = Metadata.__struct_fields__
#: The kind of text each field usually holds; a hash names those that differ in its field `_json`.
_USUALLY_JSON = {"persist"}
_COMMON_JSON = {b"true", b"false"}
_PLAIN = frozenset({str, type(None)})


class Device(NamedTuple):
    """A device's metadata as it is kept: JSON texts, ready to be sent; None for null."""

    device_id: str
    fields: Mapping[str, msgspec.Raw | str | None]
    last_updated: str


def to_texts(metadata: Metadata) -> tuple[str | None, ...]:
    """Return the text of each field, None for an absent one, and last the names whose kind is not the usual one."""
    of, name, unit, persist = metadata.datatype_id, metadata.datatype_name, metadata.datatype_unit, metadata.persist
    if (
        type(of) in _PLAIN
        and type(name) in _PLAIN
        and type(unit) in _PLAIN
        and (persist is None or type(persist) is bool)
    ):
        return of, name, cast("str | None", unit), "false" if persist is False else "true", None
    odd: list[str] = []
    values = zip(_FIELDS, (of, name, unit, True if persist is None else persist), strict=True)
    return *[_text(field, value, odd) for field, value in values], " ".join(odd) or None


def _text(name: str, value: Any, odd: list[str]) -> str | None:
    if value is None:
        return None
    is_text = isinstance(value, str)
    if is_text == (name in _USUALLY_JSON):
        odd.append(name)
    if is_text:
        return str(value)
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return _list_text(tuple(value)) if isinstance(value, list) else json_text(value)


@functools.lru_cache(maxsize=128)  # a list may be large
def _list_text(items: tuple[str, ...] | tuple[bool, ...]) -> str:
    """The same few lists of units and flags come again and again, and `json.dumps` takes longer than the rest."""
    return json_text(items)


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
    # Whether it is what we wrote is looked at: somebody else may have written into the hash.
    if may_be_json and (text in _COMMON_JSON or is_json(text)):
        return msgspec.Raw(text)
    return text.decode(errors="replace")
