"""What is kept of a reading's metadata: each field's JSON text exactly as it came, cut out of the record's value."""

from __future__ import annotations

import json
import re
import sys

import msgspec

_NULL = msgspec.Raw(b"null")


class Metadata(msgspec.Struct, gc=False):
    """The JSON text of each field that is kept, `null` where it is absent.

    A gateway may have put any JSON value in the place of the usual ones, so none of them has a type.
    """

    datatype_id: msgspec.Raw = _NULL
    datatype_name: msgspec.Raw = _NULL
    datatype_unit: msgspec.Raw = _NULL
    persist: msgspec.Raw = _NULL


class _HasMetadata(msgspec.Struct, gc=False):
    metadata: Metadata


_read_fast = msgspec.json.Decoder(_HasMetadata).decode
_read_one = json.JSONDecoder(parse_int=float).raw_decode
_skip_space = re.compile(r"[ \t\n\r]*").match


def read_metadata(value: bytes) -> Metadata:
    """Read the metadata of a record's value that has been found good, and has some."""
    try:
        return _read(value)
    except RecursionError:  # whoever found it good had a shallower stack
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(2 * limit)
        try:
            return _read(value)
        finally:
            sys.setrecursionlimit(limit)


def _read(value: bytes) -> Metadata:
    try:
        return _read_fast(value).metadata
    except ValueError:  # msgspec takes no half of a surrogate pair, which JSON may hold, escaped
        return _read_exactly(value.decode())


def _read_exactly(text: str) -> Metadata:
    begin, _ = _members(text, _skip_space(text, 0).end())["metadata"]  # type: ignore[union-attr] # it matches nothing too
    places = _members(text, begin)
    return Metadata(
        **{
            name: msgspec.Raw(text[slice(*places[name])].encode())
            for name in Metadata.__struct_fields__
            if name in places
        }
    )


def _members(text: str, begin: int) -> dict[str, tuple[int, int]]:
    """Return where the value of each member begins and ends, of an object that is known to be valid JSON."""

    def skip_space(position: int) -> int:
        return _skip_space(text, position).end()  # type: ignore[union-attr] # it matches nothing too

    places: dict[str, tuple[int, int]] = {}
    position = skip_space(begin + 1)
    while text[position] != "}":
        name, position = _read_one(text, position)
        position = skip_space(skip_space(position) + 1)  # behind the colon
        _, end = _read_one(text, position)
        places[name] = position, end
        position = skip_space(end)
        if text[position] == ",":
            position = skip_space(position + 1)
    return places
