"""The settings of Redis (the contract, section 6), and what they come to: which servers, and how to reach them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

from stream_cache.errors import WrongSetting

_DEFAULT_PORT, _DEFAULT_SENTINEL_PORT = 6379, 26379
_SCHEMES = re.compile(r"(?P<scheme>rediss?|rediss?\+sentinel|rediss?\+cluster|unix)://(?P<rest>.*)", re.DOTALL)
_MEMBER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
_HOST = re.compile(r"\[?[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}\]?|[A-Za-z0-9._-]+")
_URL_MAY_HOLD = (
    "redis://, rediss://, redis+sentinel://H1:26379,H2:26379/MASTER/DB, redis+cluster://H1:6379,H2:6379 (or rediss), "
    "unix:///path?db=0, each with user:password@ where needed"
)


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


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """The settings as they are written; times in seconds. Secrets are in no repr.

    `named` are the variables that the environment held: a URL excludes some of the others.
    """

    url: str = field(default="", repr=False)
    host: str = "redis"
    port: int = _DEFAULT_PORT
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    metadata_ttl_s: int = 86400
    timeout_s: float = 2.0
    durability: str = "none"
    offline_after_s: float = 300.0
    named: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables; an empty one counts as not set. Raises: WrongSetting."""
        held = {name: text.strip() for name, text in environ.items() if text.strip()}

        def read(variable: str, parse: Any, expected: str, default: Any) -> Any:
            if variable not in held:
                return default
            try:
                return parse(held[variable])
            except ValueError:
                raise WrongSetting(variable, held[variable], expected) from None

        settings = cls(
            url=held.get("REDIS_URL", ""),
            host=held.get("REDIS_HOST", cls.host),
            port=read("REDIS_PORT", _parse_port, "an integer from 1 to 65535", cls.port),
            db=read("REDIS_DB", _parse_db, "an integer from 0 to 65535", cls.db),
            username=held.get("REDIS_USERNAME", ""),
            password=held.get("REDIS_PASSWORD", ""),
            tls=read("REDIS_TLS", _parse_flag, "true or false", default=False),
            tls_ca_file=_readable(held, "REDIS_TLS_CA_FILE"),
            tls_cert_file=_readable(held, "REDIS_TLS_CERT_FILE"),
            tls_key_file=_readable(held, "REDIS_TLS_KEY_FILE"),
            sentinel_username=held.get("REDIS_SENTINEL_USERNAME", ""),
            sentinel_password=held.get("REDIS_SENTINEL_PASSWORD", ""),
            metadata_ttl_s=read("REDIS_METADATA_TTL", int, "an integer of seconds", cls.metadata_ttl_s),
            timeout_s=read("REDIS_TIMEOUT_S", float, "a number of seconds", cls.timeout_s),
            durability=read("REDIS_DURABILITY", _parse_durability, "none, replica or aof", cls.durability),
            offline_after_s=read("OFFLINE_AFTER_S", float, "a number of seconds", cls.offline_after_s),
            named=frozenset(name for name in held if name.startswith("REDIS_")),
        )
        settings.target()
        return settings

    def target(self) -> Target:
        """Tell which servers these settings name. Raises: WrongSetting where they contradict each other."""
        if self.tls_cert_file and not self.tls_key_file:
            raise WrongSetting("REDIS_TLS_KEY_FILE", "", "the path of REDIS_TLS_CERT_FILE's key")
        if self.tls_key_file and not self.tls_cert_file:
            raise WrongSetting("REDIS_TLS_CERT_FILE", "", "the path of REDIS_TLS_KEY_FILE's certificate")
        return self._target_of_url() if self.url else self._target_of_host()

    def _target_of_host(self) -> Target:
        if not _HOST.fullmatch(self.host):
            raise WrongSetting(
                "REDIS_HOST", self.host, "a host name or an address; the port is REDIS_PORT's, a URL REDIS_URL's"
            )
        return Target(
            kind=Kind.ONE,
            addresses=(Address(self.host.strip("[]"), self.port),),
            source="REDIS_HOST, REDIS_PORT",
            db=self.db,
            username=self.username,
            password=self.password,
            is_tls=self.tls,
        )

    def _target_of_url(self) -> Target:
        for other in ("REDIS_HOST", "REDIS_PORT", "REDIS_DB"):
            if other in self.named:
                raise WrongSetting(other, "something", "nothing where REDIS_URL is set, which says the same")
        try:
            target = _parse(self.url)
        except ValueError:
            raise WrongSetting("REDIS_URL", hide_password(self.url), _URL_MAY_HOLD) from None
        for variable, own, of_url in (
            ("REDIS_USERNAME", self.username, target.username),
            ("REDIS_PASSWORD", self.password, target.password),
        ):
            if own and of_url:
                raise WrongSetting(variable, None, "nothing where REDIS_URL holds it already")
        is_tls = target.is_tls or self.tls
        if is_tls and target.addresses[0].port is None:
            raise WrongSetting("REDIS_TLS", "true", "false with a unix socket")
        return Target(
            kind=target.kind,
            addresses=target.addresses,
            source=target.source,
            master_name=target.master_name,
            db=target.db,
            username=target.username or self.username,
            password=target.password or self.password,
            is_tls=is_tls,
        )


def hide_password(url: str) -> str:
    """Return a URL without what stands between `:` and `@` of it."""
    return re.sub(r"(?<=://)([^@/:]*):[^/]*@", r"\1:***@", url)


def _parse(url: str) -> Target:
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
        default = _DEFAULT_SENTINEL_PORT if kind == "sentinel" else _DEFAULT_PORT
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


def _parse_flag(text: str) -> bool:
    return _parse_word(text.lower(), "true", "false") == "true"


def _parse_durability(text: str) -> str:
    return _parse_word(text, "none", "replica", "aof")


def _parse_word(text: str, *words: str) -> str:
    if text not in words:
        raise ValueError(text)
    return text


def _readable(held: Mapping[str, str], variable: str) -> str:
    path = held.get(variable, "")
    if path and not Path(path).is_file():
        raise WrongSetting(variable, path, "the path of a PEM file that can be read")
    return path
