"""Which servers REDIS_URL names: its grammar (the contract, section 6). Below the settings, which check it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
from urllib.parse import unquote

DEFAULT_PORT, _DEFAULT_SENTINEL_PORT = 6379, 26379
_SCHEMES = re.compile(r"(?P<scheme>rediss?|rediss?\+sentinel|rediss?\+cluster|unix)://(?P<rest>.*)", re.DOTALL)
_MEMBER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")


class Kind(Enum):
    """What stands at the addresses."""

    ONE = "one Redis"
    SENTINEL = "sentinels"
    CLUSTER = "a Redis Cluster"


class Address(NamedTuple):
    """Of a server; without a port, the path of a unix socket."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the settings come to. `source` names the settings that said so, for error messages."""

    kind: Kind
    addresses: tuple[Address, ...]
    source: str
    master_name: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    is_tls: bool = False

    def __str__(self) -> str:
        of = f"{self.master_name!r} of " if self.master_name else ""
        return f"{of}{','.join(map(str, self.addresses))}/{self.db}"


def parse_url(url: str) -> Target:
    """Read a URL. Raises: ValueError."""
    found = _SCHEMES.fullmatch(url)
    if not found:
        raise ValueError(url)
    scheme, _, kind = found["scheme"].partition("+")
    rest = found["rest"]
    credentials, at, rest = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    if at and not credentials:
        raise ValueError(rest)
    hosts, slash, path = rest.partition("/")
    master_name, db = "", ""
    if scheme == "unix":
        path, _, query = path.partition("?")
        if hosts or not path:
            raise ValueError(rest)
        addresses: tuple[Address, ...] = (Address(unquote(f"/{path}"), None),)
        if query:
            db = query.removeprefix("db=") if query.startswith("db=") else "x"
    else:
        default = _DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
        addresses = tuple(_parse_member(member, default) for member in hosts.split(","))
        if kind == "sentinel":
            master_name, slash, db = path.partition("/")
            master_name = unquote(master_name)
            if not master_name or (slash and not db):
                raise ValueError(rest)
        else:
            db = path
    if not kind and len(addresses) > 1:
        raise ValueError(rest)
    if kind == "cluster" and db not in {"", "0"}:
        raise ValueError(rest)  # a Cluster has no other database
    return Target(
        kind={"": Kind.ONE, "sentinel": Kind.SENTINEL, "cluster": Kind.CLUSTER}[kind],
        addresses=addresses,
        source="REDIS_URL",
        master_name=master_name,
        db=_parse_db(db or "0"),
        username=unquote(username),
        password=unquote(password),
        is_tls=scheme == "rediss",
    )


def _parse_member(text: str, default_port: int) -> Address:
    found = _MEMBER.fullmatch(text.strip())
    if not found:
        raise ValueError(text)
    return Address(found["host"].strip("[]"), _parse_port(found["port"]) if found["port"] else default_port)


def _parse_port(text: str) -> int:
    return _parse_integer(text, 1, 65535)


def _parse_db(text: str) -> int:
    return _parse_integer(text, 0, 65535)


def _parse_integer(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise ValueError(text)
    return int(text)
