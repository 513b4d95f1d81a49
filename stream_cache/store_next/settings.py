"""The settings of Redis (the contract, section 6), and how they go together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from stream_cache.errors import WrongSetting
from stream_cache.store_next.target import (
    DEFAULT_PORT,
    Address,
    Kind,
    Target,
    hide_password,
    parse_db,
    parse_port,
    parse_url,
)

_HOST = re.compile(r"\[?[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}\]?|[A-Za-z0-9._-]+")
_URL_MAY_HOLD = (
    "redis://, rediss://, redis+sentinel://H1:26379,H2:26379/MASTER/DB, redis+cluster://H1:6379,H2:6379 (or rediss), "
    "unix:///path?db=0, each with user:password@ where needed"
)


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """The settings as they are written; times in seconds. Secrets are in no repr.

    `named` are the variables that the environment held: a URL excludes some of the others.
    """

    url: str = field(default="", repr=False)
    host: str = "redis"
    port: int = DEFAULT_PORT
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
            port=read("REDIS_PORT", parse_port, "an integer from 1 to 65535", cls.port),
            db=read("REDIS_DB", parse_db, "an integer from 0 to 65535", cls.db),
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
            target = parse_url(self.url)
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
