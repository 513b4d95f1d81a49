"""The settings: each variable of the environment, defined once, in the struct of its area.

A field says the variable's name, default, type, bounds and, in one sentence, what it does. README's table,
`.env.example` and compose's list are made from it (`make docs`). The names and what they mean are the contract's,
section 6.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

import msgspec
from msgspec import Meta

from stream_cache.environment import HOST_PORT, Area, env, matching, parsed, says, variables, within
from stream_cache.errors import InvalidSetting
from stream_cache.redis_target import Address, Kind, Target, parse_url

_DECADE_S = 315_360_000
_REDIS_URL = (
    "redis://HOST:6379/0, redis+sentinel://H1:26379,H2:26379/MASTER/0, redis+cluster://H1:6379,H2:6379 (each of them "
    "with rediss for TLS) or unix:///PATH?db=0, with USER:PASSWORD@ after the // where needed"
)


def _parse_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        return str(ipaddress.IPv6Address(bare))
    if not re.fullmatch(r"[^\s/@\[\]]+", text):
        raise ValueError(text)
    return text


def _parse_servers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        found = HOST_PORT.fullmatch(server)
        if not found or not 0 < int(found["port"] or 9092) < 2**16:
            raise ValueError(text)
    return ",".join(servers)


def _parse_log_level(text: str) -> str:
    return {"WARN": "WARNING", "CRIT": "CRITICAL"}.get(text.upper(), text.upper())


def _parse_pem_file(text: str) -> str:
    if not (os.access(text, os.R_OK) and Path(text).is_file()):
        raise ValueError(text)
    return text


Port: TypeAlias = Annotated[int, within(1, 65535)]
_Level: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
_Host: TypeAlias = Annotated[str, parsed(_parse_host, "a host name or an address")]
_Servers: TypeAlias = Annotated[str, parsed(_parse_servers, "host:port, or several with commas between them")]
_PemFile: TypeAlias = Annotated[str, parsed(_parse_pem_file, "the path of a PEM file that can be read")]
_Topic: TypeAlias = Annotated[
    str, matching(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}", "a topic's name: 1 to 249 of a-z A-Z 0-9 . _ -")
]
_Name: TypeAlias = Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,249}", "a name of 1 to 249 characters")]
_Secret: TypeAlias = Annotated[str, matching(r"[^\r\n]*", "any text without a line break", is_secret=True)]
_Token: TypeAlias = Annotated[str, matching(r"[\x21-\x7e]*", "visible ASCII characters without spaces", is_secret=True)]


def _check_pair(prefix: str, cert_file: str, key_file: str) -> None:
    if bool(cert_file) != bool(key_file):
        missing = f"{prefix}_KEY_FILE" if cert_file else f"{prefix}_CERT_FILE"
        raise InvalidSetting(missing, "", "the path of a PEM file, since the other one of the two is set")


class KafkaSettings(Area, frozen=True, kw_only=True):
    """Kafka."""

    bootstrap_servers: Annotated[_Servers, says("Brokers to begin with")] = env("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    source_topic: Annotated[_Topic, says("Topic of the normalizer's readings")] = env(
        "KAFKA_VALIDATED_DATA_TOPIC", "iot_validated_data"
    )
    error_topic: Annotated[_Topic, says("Topic that bad records go to")] = env("KAFKA_ERROR_TOPIC", "iot_errors")
    group_id: Annotated[_Name, says("Consumer group: its workers share the partitions")] = env(
        "KAFKA_CONSUMER_GROUP_ID", "cache_service_group"
    )
    group_instance_id: Annotated[
        _Name, says("Static membership: a restart within the session timeout under the same id moves no partitions")
    ] = env("KAFKA_GROUP_INSTANCE_ID", "")
    poll_timeout_s: Annotated[float, within(0.01, 30), says("Longest that one fetch waits on an idle topic")] = env(
        "KAFKA_CONSUMER_POLL_TIMEOUT_S", 1.0
    )
    session_timeout_s: Annotated[
        float, within(1, 300), says("Silence after which the broker gives a worker's partitions to others")
    ] = env("KAFKA_SESSION_TIMEOUT_S", 10.0)
    metadata_max_age_s: Annotated[
        float, within(0.5, 300), says("How often new topics and partitions are looked for")
    ] = env("KAFKA_METADATA_MAX_AGE_S", 10.0)

    def __post_init__(self) -> None:
        """Check what goes together. Raises: InvalidSetting."""
        if self.error_topic == self.source_topic:
            expected = "a topic other than KAFKA_VALIDATED_DATA_TOPIC"
            raise InvalidSetting("KAFKA_ERROR_TOPIC", self.error_topic, expected)


class RedisSettings(Area, frozen=True, kw_only=True):
    """Redis (6.2 or later)."""

    url: Annotated[
        str,
        says("One Redis, sentinels, a Cluster or a socket, instead of REDIS_HOST, REDIS_PORT and REDIS_DB"),
        Meta(extra={"expected": _REDIS_URL}),
    ] = env("REDIS_URL", "")
    host: Annotated[_Host, says("Host of Redis")] = env("REDIS_HOST", "redis")
    port: Annotated[Port, says("Port of Redis")] = env("REDIS_PORT", 6379)
    db: Annotated[int, within(0, 65535), says("Number of the database")] = env("REDIS_DB", 0)
    username: Annotated[_Name, says("ACL user, unless REDIS_URL has one")] = env("REDIS_USERNAME", "")
    password: Annotated[_Secret, says("Password, unless REDIS_URL has one")] = env("REDIS_PASSWORD", "")
    tls: Annotated[bool, says("Whether to speak TLS, also where REDIS_URL does not say so")] = env(
        "REDIS_TLS", default=False
    )
    tls_ca_file: Annotated[
        _PemFile, says("Authorities that the server's certificate may be of, instead of the system's")
    ] = env("REDIS_TLS_CA_FILE", "")
    tls_cert_file: Annotated[_PemFile, says("Client certificate")] = env("REDIS_TLS_CERT_FILE", "")
    tls_key_file: Annotated[_PemFile, says("Key of that certificate")] = env("REDIS_TLS_KEY_FILE", "")
    sentinel_username: Annotated[_Name, says("ACL user at the sentinels")] = env("REDIS_SENTINEL_USERNAME", "")
    sentinel_password: Annotated[_Secret, says("Password of the sentinels")] = env("REDIS_SENTINEL_PASSWORD", "")
    metadata_ttl_s: Annotated[
        int,
        within(0, _DECADE_S),
        says("Seconds that a device is kept after the Kafka timestamp of its latest event, 0 = for ever"),
    ] = env("REDIS_METADATA_TTL", 86400)
    timeout_s: Annotated[float, within(0.05, 60), says("Limit of one call to Redis")] = env("REDIS_TIMEOUT_S", 2.0)
    durability: Annotated[
        Literal["none", "replica", "aof"],
        says(
            "What a flush waits for before its offsets are committed: nothing more, a replica (WAIT), "
            "the append-only file (WAITAOF, Redis 7.2)"
        ),
    ] = env("REDIS_DURABILITY", "none")
    prune_interval_s: Annotated[
        float, within(0.1, 20), says("How often, at least, devices that have expired leave the index")
    ] = env("PRUNE_INTERVAL_S", 15.0)
    offline_after_s: Annotated[
        float, within(0.001, _DECADE_S), says("Silence after which a device counts as offline")
    ] = env("OFFLINE_AFTER_S", 300.0)

    def __post_init__(self) -> None:
        """Check what goes together. Raises: InvalidSetting."""
        _check_pair("REDIS_TLS", self.tls_cert_file, self.tls_key_file)
        self.target()

    def target(self) -> Target:
        """Tell which servers these settings name. Raises: InvalidSetting where they contradict each other."""
        if self.url:
            return self._target_of_url()
        return Target(
            kind=Kind.ONE,
            addresses=(Address(self.host, self.port),),
            source="REDIS_HOST, REDIS_PORT",
            db=self.db,
            username=self.username,
            password=self.password,
            is_tls=self.tls,
        )

    def _target_of_url(self) -> Target:
        for variable, held in (("REDIS_HOST", self.host), ("REDIS_PORT", self.port), ("REDIS_DB", self.db)):
            if variable in self.named:
                raise InvalidSetting(variable, str(held), "nothing where REDIS_URL is set, which says the same")
        try:
            target = parse_url(self.url)
        except ValueError:
            raise InvalidSetting("REDIS_URL", self.url, _REDIS_URL) from None
        if self.username and target.username:
            raise InvalidSetting("REDIS_USERNAME", self.username, "nothing where REDIS_URL has a user")
        if self.password and target.password:
            raise InvalidSetting("REDIS_PASSWORD", None, "nothing where REDIS_URL has a password")
        is_tls = target.is_tls or self.tls
        if is_tls and target.addresses[0].port is None:
            raise InvalidSetting("REDIS_TLS", "true", "false with a unix socket")
        return dataclasses.replace(
            target,
            username=target.username or self.username,
            password=target.password or self.password,
            is_tls=is_tls,
        )


class PipelineSettings(Area, frozen=True, kw_only=True):
    """The path from Kafka to Redis."""

    flush_interval_s: Annotated[
        float, within(0.01, 60), says("Size of the tumbling window, the longest that a reading waits for its flush")
    ] = env("FLUSH_INTERVAL_S", 0.5)
    commit_interval_s: Annotated[
        float, within(0.05, 4), says("How often the offsets of flushed readings are committed")
    ] = env("COMMIT_INTERVAL_S", 1.0)
    max_unacked_readings: Annotated[
        int,
        within(1, 10_000_000),
        says("Readings taken but not yet acked, beyond which (or beyond 128 MiB of them) consumption waits"),
    ] = env("MAX_UNACKED_READINGS", 50_000)
    max_clock_skew_s: Annotated[
        float, within(0, _DECADE_S), says("How far a good reading's event time may lie ahead of its Kafka timestamp")
    ] = env("MAX_CLOCK_SKEW_S", 3600.0)
    error_original_max_bytes: Annotated[
        int,
        within(0, 10_485_760),
        says("Bytes of an original message, beyond which its error record holds only the first"),
    ] = env("ERROR_ORIGINAL_MAX_BYTES", 262_144)


class WebSettings(Area, frozen=True, kw_only=True):
    """HTTP."""

    bind: Annotated[_Host, says("Address to listen on (0.0.0.0: all of IPv4, :: all of both)")] = env(
        "WEB_BIND", "0.0.0.0"
    )
    port: Annotated[Port, says("Port of the web server")] = env("WEB_PORT", 6066)
    api_token: Annotated[_Token, says("Token that requests must carry as `Authorization: Bearer ...`")] = env(
        "API_TOKEN", ""
    )
    health_needs_token: Annotated[bool, says("Whether `/health/*`, `/metrics` and `/` need the token too")] = env(
        "HEALTH_NEEDS_TOKEN", default=False
    )
    tls_cert_file: Annotated[_PemFile, says("Certificate chain, to serve HTTPS")] = env("WEB_TLS_CERT_FILE", "")
    tls_key_file: Annotated[_PemFile, says("Key of that certificate")] = env("WEB_TLS_KEY_FILE", "")
    max_connections: Annotated[
        int,
        within(1, 100_000),
        says("Connections at a time (one more takes the place of an idle one, or is closed at once)"),
    ] = env("WEB_MAX_CONNECTIONS", 1000)
    keepalive_s: Annotated[
        float,
        within(1, 3600),
        says("How long a connection is kept that waits for its next request, longer than balancers do"),
    ] = env("WEB_KEEPALIVE_S", 75.0)
    bulk_max_devices: Annotated[int, within(1, 100_000), says("Most devices that one bulk request may ask for")] = env(
        "BULK_MAX_DEVICES", 1000
    )

    def __post_init__(self) -> None:
        """Check what goes together. Raises: InvalidSetting."""
        _check_pair("WEB_TLS", self.tls_cert_file, self.tls_key_file)


class ProcessSettings(Area, frozen=True, kw_only=True):
    """The process."""

    log_level: Annotated[_Level, parsed(_parse_log_level), says("Least level that is logged, whatever `-l` says")] = (
        env("LOG_LEVEL", "INFO")
    )
    shutdown_timeout_s: Annotated[
        float, within(0.1, 8), says("How long a shutdown or a rebalance waits for the last flush")
    ] = env("SHUTDOWN_TIMEOUT_S", 5.0)
    stall_timeout_s: Annotated[
        float,
        within(1, 86_400),
        says("Lag without progress, beyond which the consumer counts as stalled and `/health/live` says 503"),
    ] = env("STALL_TIMEOUT_S", 60.0)
    stall_exit_s: Annotated[float, within(1, 86_400), says("How long after that the worker exits with 1")] = env(
        "STALL_EXIT_S", 60.0
    )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a worker. Times in seconds, sizes in bytes."""

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    pipeline: PipelineSettings = PipelineSettings()
    web: WebSettings = WebSettings()
    process: ProcessSettings = ProcessSettings()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read every variable. Raises: InvalidSetting for the first one that holds something else than is expected."""
        return cls(
            kafka=KafkaSettings.from_env(environ),
            redis=RedisSettings.from_env(environ),
            pipeline=PipelineSettings.from_env(environ),
            web=WebSettings.from_env(environ),
            process=ProcessSettings.from_env(environ),
        )


AREAS: tuple[type[Area], ...] = tuple(field.type for field in msgspec.structs.fields(Settings))
VARIABLES = tuple(variable for area in AREAS for variable in variables(area))
