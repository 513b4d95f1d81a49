"""The settings: the only reader of the environment.

`Settings.from_env` turns the environment into one frozen object, or says which variable is wrong, what it
holds and what it may hold. Names, defaults and meaning are the contract's, section 6.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from stream_cache.errors import WrongSetting

_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
#: What Kubernetes puts into `<NAME>_PORT` for a Service called so.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DECADE_S = 315_360_000


@dataclass(frozen=True)
class Form:
    """What the text of a variable may be: how to read it, and how to say so."""

    read: Callable[[str], Any]
    may_hold: str


def whole(low: int, high: int) -> Form:
    """Return the form of a number without a fraction."""

    def read(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return Form(read, f"a whole number from {low} to {high}")


def seconds(low: float, high: float) -> Form:
    """Return the form of a time."""

    def read(text: str) -> float:
        number = float(text)
        if not math.isfinite(number) or not low <= number <= high:
            raise ValueError(text)
        return number

    return Form(read, f"a number of seconds from {low:.12g} to {high:.12g}")


def _matching(pattern: re.Pattern[str], may_hold: str) -> Form:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return Form(read, may_hold)


def one_of(*words: str) -> Form:
    """Return the form of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return Form(read, "one of " + ", ".join(words))


def _read_flag(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


def _read_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        return str(ipaddress.IPv6Address(bare))
    if not re.fullmatch(r"[^\s/@\[\]]+", text):
        raise ValueError(text)
    return text


def _read_servers(text: str) -> str:
    for server in text.split(","):
        found = _HOST_PORT.fullmatch(server.strip())
        if not found or not 0 < int(found["port"] or 9092) < 2**16:
            raise ValueError(text)
    return ",".join(server.strip() for server in text.split(","))


def _read_log_level(text: str) -> str:
    level = {"WARN": "WARNING", "CRIT": "CRITICAL"}.get(text.upper(), text.upper())
    if level not in _LOG_LEVELS:
        raise ValueError(text)
    return level


_SERVERS = Form(_read_servers, "host:port, or several with commas between them")
_TOPIC_NAME = _matching(_TOPIC, "a topic's name: 1 to 249 of a-z A-Z 0-9 . _ -")
_NAME = _matching(re.compile(r"[^\x00-\x1f\x7f]{1,249}"), "a name of 1 to 249 characters")
_HOST = Form(_read_host, "a host name or an address")
_SECRET = _matching(re.compile(r"[^\r\n]*"), "any text without a line break")
_OPTIONAL_NAME = _matching(re.compile(r"[^\x00-\x1f\x7f]{0,249}"), "nothing, or a name of up to 249 characters")
_TOKEN = _matching(re.compile(r"[\x21-\x7e]*"), "nothing, or visible ASCII characters without spaces")
_FLAG = Form(_read_flag, "true or false")
_FILE = Form(str, "nothing, or the path of a PEM file")
_PORT = whole(1, 65535)
#: Where the port goes that is no part of an address.
_PORT_BESIDE = {"REDIS_HOST": "REDIS_PORT", "WEB_BIND": "WEB_PORT"}


def _variable(env: str, default: Any, form: Form, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"env": env, "form": form, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a worker. Times in seconds, sizes in bytes. The password is in no repr."""

    # The owner's eleven.
    kafka_bootstrap_servers: str = _variable("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092", _SERVERS)
    kafka_validated_data_topic: str = _variable("KAFKA_VALIDATED_DATA_TOPIC", "iot_validated_data", _TOPIC_NAME)
    kafka_error_topic: str = _variable("KAFKA_ERROR_TOPIC", "iot_errors", _TOPIC_NAME)
    kafka_consumer_group_id: str = _variable("KAFKA_CONSUMER_GROUP_ID", "cache_service_group", _NAME)
    kafka_consumer_poll_timeout_s: float = _variable("KAFKA_CONSUMER_POLL_TIMEOUT_S", 1.0, seconds(0.01, 30))
    redis_host: str = _variable("REDIS_HOST", "redis", _HOST)
    redis_port: int = _variable("REDIS_PORT", 6379, _PORT)
    redis_db: int = _variable("REDIS_DB", 0, whole(0, 65535))
    redis_password: str = _variable("REDIS_PASSWORD", "", _SECRET, secret=True)
    redis_metadata_ttl_s: int = _variable("REDIS_METADATA_TTL", 86400, whole(0, _DECADE_S))
    log_level: str = _variable("LOG_LEVEL", "INFO", Form(_read_log_level, "one of " + ", ".join(_LOG_LEVELS)))
    # Ours.
    flush_interval_s: float = _variable("FLUSH_INTERVAL_S", 0.5, seconds(0.01, 60))
    max_clock_skew_s: float = _variable("MAX_CLOCK_SKEW_S", 3600.0, seconds(0, _DECADE_S))
    bulk_max_devices: int = _variable("BULK_MAX_DEVICES", 1000, whole(1, 100_000))
    error_original_max_bytes: int = _variable("ERROR_ORIGINAL_MAX_BYTES", 262_144, whole(0, 10_485_760))
    web_port: int = _variable("WEB_PORT", 6066, _PORT)
    web_bind: str = _variable("WEB_BIND", "0.0.0.0", _HOST)
    max_unacked_readings: int = _variable("MAX_UNACKED_READINGS", 50_000, whole(1, 10_000_000))
    commit_interval_s: float = _variable("COMMIT_INTERVAL_S", 1.0, seconds(0.05, 4))
    redis_timeout_s: float = _variable("REDIS_TIMEOUT_S", 2.0, seconds(0.05, 60))
    prune_interval_s: float = _variable("PRUNE_INTERVAL_S", 15.0, seconds(0.1, 20))
    kafka_session_timeout_s: float = _variable("KAFKA_SESSION_TIMEOUT_S", 10.0, seconds(1, 300))
    kafka_metadata_max_age_s: float = _variable("KAFKA_METADATA_MAX_AGE_S", 10.0, seconds(0.5, 300))
    kafka_group_instance_id: str = _variable("KAFKA_GROUP_INSTANCE_ID", "", _OPTIONAL_NAME)
    shutdown_timeout_s: float = _variable("SHUTDOWN_TIMEOUT_S", 5.0, seconds(0.1, 8))
    stall_timeout_s: float = _variable("STALL_TIMEOUT_S", 60.0, seconds(1, 86_400))
    stall_exit_s: float = _variable("STALL_EXIT_S", 60.0, seconds(1, 86_400))
    redis_durability: str = _variable("REDIS_DURABILITY", "none", one_of("none", "replica", "aof"))
    api_token: str = _variable("API_TOKEN", "", _TOKEN, secret=True)
    health_needs_token: bool = _variable("HEALTH_NEEDS_TOKEN", False, _FLAG)
    web_keepalive_s: float = _variable("WEB_KEEPALIVE_S", 75.0, seconds(1, 3600))
    web_max_connections: int = _variable("WEB_MAX_CONNECTIONS", 1000, whole(1, 100_000))
    web_tls_cert_file: str = _variable("WEB_TLS_CERT_FILE", "", _FILE)
    web_tls_key_file: str = _variable("WEB_TLS_KEY_FILE", "", _FILE)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read every variable, without the white space around it; one that is empty or not set keeps its default.

        Raises: WrongSetting for the first variable that holds what it may not hold.
        """
        values: dict[str, Any] = {}
        for setting in fields(cls):
            variable, form = setting.metadata["env"], setting.metadata["form"]
            text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                values[setting.name] = form.read(text)
            except ValueError:
                # user:password@host is no form of any setting, but a likely mistake.
                held = None if setting.metadata["secret"] or re.search(":.*@", text) else text
                raise WrongSetting(variable, held, form.may_hold + _hint(variable, text)) from None
        settings = cls(**values)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.kafka_error_topic == self.kafka_validated_data_topic:
            may_hold = "a topic other than KAFKA_VALIDATED_DATA_TOPIC"
            raise WrongSetting("KAFKA_ERROR_TOPIC", self.kafka_error_topic, may_hold)
        if bool(self.web_tls_cert_file) != bool(self.web_tls_key_file):
            missing = "WEB_TLS_KEY_FILE" if self.web_tls_cert_file else "WEB_TLS_CERT_FILE"
            raise WrongSetting(missing, "", "the path of a PEM file, as the other one of the two does")


def _hint(variable: str, text: str) -> str:
    """Return what else to say of a wrong value, where it is a known one; nothing of it that may be a secret."""
    if SERVICE_LINK.match(text) and variable.endswith("_PORT"):
        service = variable.removesuffix("_PORT").lower().replace("_", "-")
        return (
            f" (Kubernetes sets it so for a Service called {service!r}: "
            f"set enableServiceLinks: false in the pod's spec, or {variable} yourself)"
        )
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+_.-]*://", text):
        return f" (without {scheme[0]})"
    address = _HOST_PORT.fullmatch(text)
    if variable in _PORT_BESIDE and address and address["port"]:
        return f" (what is meant is {variable}={address['host']} and {_PORT_BESIDE[variable]}={address['port']})"
    return ""
