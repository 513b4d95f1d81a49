"""Faust's own settings: those that ours decide, those that the design needs, and what a shell may still add.

Faust reads its environment too, and prefers it. Here its variables take the prefix ``FAUST_``, and one that says other
than ours is an invalid setting.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import faust
from aiokafka import codec

from stream_cache.environment import convert, within
from stream_cache.errors import InvalidSetting
from stream_cache.kafka.faust_command import check_read_at_import
from stream_cache.kafka.process import Worker
from stream_cache.kafka.tables import ChangelogFreeTable, ChangelogFreeTableManager
from stream_cache.settings import Settings

_PREFIX = "FAUST_"
#: Longer than any outage of Redis to be ridden out: a worker that waits for Redis fetches nothing, and stays a member.
_MAX_POLL_INTERVAL_S = 7 * 86400.0
#: Records of one chunk. Each chunk passes from the consumer's thread to the main one, which costs a wake-up.
_MAX_RECORDS_PER_CHUNK = 10_000
#: Of one partition at once. The more of a window's readings are of one partition, the fewer devices are to be written:
#: 4 MB halve the writes of 1 MB, and take a backlog of 10,000 devices in a fifth faster.
_MAX_FETCH_BYTES = 4 * 2**20
#: What Faust has by itself.
_REQUEST_TIMEOUT_S = 90.0
_CODECS = {"gzip": codec.has_gzip, "snappy": codec.has_snappy, "lz4": codec.has_lz4, "zstd": codec.has_zstd}
#: Chunks between the consumer and the agent.
_MAX_CHUNKS_QUEUED = 4


def faust_options(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what Faust's app is to be configured with.

    Raises: InvalidSetting for a ``FAUST_`` variable that Faust or its client can't read, or that contradicts ours.
    """
    check_read_at_import(environ)
    decided, app_id = _initialised(settings), settings.kafka.group_id
    # Not the whole environment: Faust would take another prefix from it.
    extra = {variable: text.strip() for variable, text in environ.items() if variable.startswith(_PREFIX)}
    extra = {variable: text for variable, text in extra.items() if text}
    ours, kinds = faust.Settings(app_id, **decided, env={}), _kinds(settings)
    for name, setting in faust.Settings.SETTINGS.items():
        variable = f"{_PREFIX}{setting.env_name}"
        if variable not in extra:
            continue
        held = None if variable.endswith(("_URL", "_CREDENTIALS")) else extra[variable]  # those may hold a password
        try:
            theirs = getattr(faust.Settings(app_id, **decided, env={variable: extra[variable]}), name)
        except Exception as error:  # noqa: BLE001 - each of its types fails in its own way
            raise InvalidSetting(variable, held, f"what Faust can read ({type(error).__name__})") from None
        if name in kinds:
            convert(variable, extra[variable], kinds[name])
        if name in decided and theirs != getattr(ours, name):
            raise InvalidSetting(variable, held, "nothing: the service's own settings decide this")
    # A request to join the group is answered when all have joined: Faust wants it to wait longer than a session lasts.
    request_timeout_s = max(_REQUEST_TIMEOUT_S, settings.kafka.session_timeout_s + 10)
    return {"broker_request_timeout": request_timeout_s, **decided, "env": extra}


def _kinds(settings: Settings) -> dict[str, Any]:
    """Return the types of settings that are Faust's alone, and that it hands to its client unchecked."""
    largest = 2**31 - 1  # the protocol's int32
    return {
        "broker_request_timeout": Annotated[float, within(settings.kafka.session_timeout_s, 3600)],
        "broker_rebalance_timeout": Annotated[float, within(1, 3600)],
        "consumer_connections_max_idle_ms": Annotated[int, within(1000, largest)],
        "consumer_max_fetch_size": Annotated[int, within(1, largest)],
        "producer_compression_type": Literal[*(name for name, is_there in _CODECS.items() if is_there())],
        "producer_connections_max_idle_ms": Annotated[int, within(1000, largest)],
        "producer_linger": Annotated[float, within(0, 60)],
        "producer_linger_ms": Annotated[int, within(0, 60_000)],
    }


def _initialised(settings: Settings) -> dict[str, Any]:
    """Return Faust's settings that ours decide, and those that the design needs."""
    brokers = [f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")]
    return {
        "env_prefix": _PREFIX,
        "version": 1,  # a later one would get into the group's name
        "broker": brokers,
        "broker_consumer": brokers,
        "broker_producer": brokers,
        "broker_api_version": "auto",  # what else it holds, the client refuses
        "consumer_api_version": "auto",
        "producer_api_version": "auto",
        "broker_commit_interval": settings.pipeline.commit_interval_s,
        "broker_session_timeout": settings.kafka.session_timeout_s,
        "broker_heartbeat_interval": settings.kafka.session_timeout_s / 4,
        "broker_max_poll_interval": _MAX_POLL_INTERVAL_S,
        "broker_max_poll_records": _MAX_RECORDS_PER_CHUNK,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": _MAX_FETCH_BYTES,
        "consumer_group_instance_id": settings.kafka.group_instance_id or None,
        "consumer_metadata_max_age_ms": int(settings.kafka.metadata_max_age_s * 1000),
        "processing_guarantee": "at_least_once",
        "producer_acks": -1,
        "producer_metadata_max_age_ms": int(settings.kafka.metadata_max_age_s * 1000),
        "producer_max_batch_size": 1_000_000,  # a flood of bad records goes out in few requests
        "producer_max_request_size": max(1_000_000, 2 * settings.pipeline.error_original_max_bytes),
        "producer_request_timeout": 10.0,
        "producer_threaded": False,
        "stream_recovery_delay": 0.0,
        "stream_buffer_maxsize": _MAX_CHUNKS_QUEUED,
        "stream_wait_empty": True,
        "store": "memory://",
        "cache": "memory://",
        "table_cleanup_interval": 30.0,
        "table_standby_replicas": 0,  # with any, Faust's own assignor is used, which dies of a member's new address
        "topic_allow_declare": False,  # topics are the operator's: a typing error must not make new ones
        "topic_disable_leader": True,
        "web_enabled": True,
        "web_bind": settings.web.bind,
        "web_port": settings.web.port,
        "web_in_thread": False,
        "web_transport": "tcp://",
        "web_ssl_context": _tls_context(settings),
        "Table": ChangelogFreeTable,
        "TableManager": ChangelogFreeTableManager,
        "Worker": Worker,
    }


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.web.tls_cert_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # With no password OpenSSL would ask the terminal for an encrypted key's.
        context.load_cert_chain(settings.web.tls_cert_file, settings.web.tls_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        expected = f"the path of a readable PEM certificate, its key in WEB_TLS_KEY_FILE ({error})"
        raise InvalidSetting("WEB_TLS_CERT_FILE", settings.web.tls_cert_file, expected) from None
    return context
