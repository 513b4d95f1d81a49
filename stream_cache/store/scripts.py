"""The scripts beside this file, and what calls to Redis are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple, TypeVar

import msgspec

from stream_cache.store.node import Command

_Item = TypeVar("_Item")
#: Hashes that one script call reads: so long does a server answer nobody else.
HASHES_PER_CALL = 250


class Call(NamedTuple):
    """A command, and a key that says which server takes it: all its keys lie there."""

    key: str | bytes
    command: Command


class Script:
    """A script, called by its digest. Whoever runs the call loads it where a server doesn't know it."""

    def __init__(self, name: str) -> None:
        self.source = files(__package__).joinpath(name).read_text(encoding="utf-8")
        self._digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str | bytes], *arguments: str | bytes | float) -> Call:
        """Return a call with these KEYS, all of one slot, and ARGV."""
        return Call(keys[0], ("EVALSHA", self._digest, len(keys), *keys, *arguments))


def in_calls(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    """Return what each of the calls has that take so many at once."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def as_text(text: bytes) -> msgspec.Raw:
    """Return what makes a MessagePack encoder write these bytes as a str, UTF-8 or not: Redis 6.2 reads no bin."""
    size = len(text)
    if size < 2**5:
        head = bytes([0xA0 | size])
    elif size < 2**8:
        head = b"\xd9" + size.to_bytes(1, "big")
    elif size < 2**16:
        head = b"\xda" + size.to_bytes(2, "big")
    else:
        head = b"\xdb" + size.to_bytes(4, "big")
    return msgspec.Raw(head + text)


PUT = Script("put.lua")
GET_MANY = Script("get_many.lua")
LIVING = Script("living.lua")
INDEX = Script("index.lua")
PRUNE = Script("prune.lua")
ADOPT = Script("adopt.lua")
ALL = (PUT, GET_MANY, LIVING, INDEX, PRUNE, ADOPT)
