"""One Redis server: connections to it, and pipelines over them.

Why not redis-py's own pipeline: it packs commands in Python, and puts a time limit around each reply, 27 us a command
together; this one takes 5 (hiredis packs, one limit holds for all; bench/store.py). A Cluster has a command for
each device.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any, TypeAlias

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from stream_cache.redis_target import Address
from stream_cache.settings import RedisSettings

_CLIENT_NAME = "stream_cache"
Command: TypeAlias = tuple[Any, ...]


class Lane(IntEnum):
    """Whose connections a call takes, so that lookups and flushes don't wait for each other; how many there are."""

    WRITE = 4
    READ = 32


class Node:
    """A server at an address. Connects when it is first used, and again after whatever fails."""

    def __init__(self, address: Address, options: dict[str, Any], *, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._is_tls, self._has_answered = options["connection_class"] is SSLConnection, False
        where = {"path": address.host} if address.port is None else {"host": address.host, "port": address.port}
        kind = UnixDomainSocketConnection if address.port is None else None
        self._pools = {
            lane: BlockingConnectionPool(
                max_connections=int(lane),
                timeout=timeout_s,
                **{**options, **where, **({"connection_class": kind} if kind else {})},
            )
            for lane in Lane
        }

    async def pipeline(self, commands: Sequence[Command], lane: Lane) -> list[Any]:
        """Send commands at once, and return their replies; one that Redis refuses is the exception that says so.

        Raises: RedisError or OSError where no answer came. What was done of it is not known then.
        """
        replies: list[Any] = []
        pool = self._pools[lane]
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    await connection.send_packed_command(b"".join([hiredis.pack_command(c) for c in commands]))
                    for _ in commands:
                        try:
                            # inf: no limit of its own
                            replies.append(await connection.read_response(timeout=math.inf))
                        except ResponseError as error:
                            replies.append(error)
                except BaseException:
                    # Its next reply would be the answer to another question.
                    await connection.disconnect(nowait=True)
                    raise
                finally:
                    await pool.release(connection)
        except TimeoutError:
            hint = "; does it speak TLS there? (REDIS_TLS)" if self._is_tls and not self._has_answered else ""
            raise NoAnswer(f"no answer within {self._timeout_s:g} s (REDIS_TIMEOUT_S){hint}") from None
        self._has_answered = True
        return replies

    async def drop_connections(self) -> None:
        """Close all connections, those in use too: whoever waits on one gets an error, and may repeat his call."""
        for pool in self._pools.values():
            with suppress(RedisError, OSError):
                await pool.disconnect()


class NoAnswer(RedisError):
    """A server took longer than it may."""


async def _greet(connection: AbstractConnection) -> None:
    """Log in, and give the connection a name in CLIENT LIST where that is allowed: it is only decoration."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "SETNAME", _CLIENT_NAME, check_health=False)
    with suppress(ResponseError):
        await connection.read_response()


def connection_options(settings: RedisSettings) -> dict[str, Any]:
    """Return the options of a pool to a server of data."""
    target = settings.target()
    return {
        "db": target.db,
        # The user that a password alone means. Named, it may bring a password that Redis doesn't ask for.
        "username": target.username or ("default" if target.password else None),
        "password": target.password or None,
        **_common_options(settings, is_tls=target.is_tls, timeout_s=settings.timeout_s),
    }


def sentinel_options(settings: RedisSettings, timeout_s: float) -> dict[str, Any]:
    """Return the options of a client of a sentinel, which redis-py takes for `sentinel_kwargs`.

    It takes over none of the others' there: without a Retry of its own, a sentinel that is away costs 3.7 s.
    """
    is_tls = settings.target().is_tls
    options = _common_options(settings, is_tls=is_tls, timeout_s=timeout_s)
    options.pop("connection_class")
    return {
        **options,
        "ssl": is_tls,
        "socket_timeout": timeout_s,
        "username": settings.sentinel_username or None,
        "password": settings.sentinel_password or None,
    }


def _common_options(settings: RedisSettings, *, is_tls: bool, timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connection_class": SSLConnection if is_tls else Connection,
        "socket_connect_timeout": timeout_s,
        "socket_timeout": None,  # `pipeline` has one limit for all
        "retry": Retry(NoBackoff(), 0),  # what is repeated is the caller's to say
        # RESP2 and no word on who we are: a user needs no permission for HELLO and CLIENT then.
        "protocol": 2,
        "driver_info": None,
        "redis_connect_func": _greet,
    }
    if is_tls:
        options |= {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_ca_certs": settings.tls_ca_file or None,
            "ssl_certfile": settings.tls_cert_file or None,
            "ssl_keyfile": settings.tls_key_file or None,
        }
    return options
