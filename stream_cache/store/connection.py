"""The way to Redis: its connections, and what is said when it fails.

Every call goes through `RedisConnection.call`, whoever calls: a flush, a lookup, the pruner, a probe. It is the one
place that turns what redis-py raises into words, says them in the log, and gives connections up.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import mode
import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse, RedisError, ResponseError

from stream_cache.errors import StoreUnavailable
from stream_cache.settings import RedisSettings
from stream_cache.waiting import WaitingLog

_CLIENT_NAME = "stream_cache"
#: An outage is over when nothing has failed for so long: while some calls fail and others succeed, the log stays calm.
#: Whatever fails is tried again sooner, but a flush, which may take many times as long.
_CALM_S = 5.0
_ADDRESS = "REDIS_HOST, REDIS_PORT"
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
#: What Redis wraps around an error of a script: 7.0's tail, 6.2's head.
_SCRIPT_TRACE = re.compile(r"^Error running script \(call to \w+\): (?:@user_script: ?\d+: )*-?| script: \w+, on @.*$")
_ABOUT_DB = re.compile("DB index|SELECT|.*'select'")
_logger = mode.get_logger(__name__)


class RedisConnection:
    """The connections to one Redis.

    `writer` is for flushes and pruning, `reader` for lookups: separate pools, so that neither waits for the other.
    They connect when they are first used.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self.writer = self._client(max_connections=4)
        self.reader = self._client(max_connections=32)
        self._outage = WaitingLog(_logger)
        self._failed_at = 0.0
        self._has_flush_failed = False

    def _client(self, max_connections: int) -> redis.Redis:
        settings = self._settings
        return redis.Redis.from_pool(
            _Pool(
                host=settings.host,
                port=settings.port,
                db=settings.db,
                # The user that a password alone means. Named, it may bring a password that Redis doesn't ask for.
                username="default" if settings.password else None,
                password=settings.password or None,
                max_connections=max_connections,
                timeout=settings.timeout_s,
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                # Every command here may be repeated. Longer outages are the flush's to ride out.
                retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 2),
                # No HELLO, CLIENT SETINFO or PING: a proxy may not know them, an ACL user may not use them.
                protocol=2,
                driver_info=None,
                redis_connect_func=_greet,
            )
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.writer.aclose()
        await self.reader.aclose()

    async def call(self, timeout_s: float, call: Awaitable[Any], *, is_flush: bool = False) -> Any:
        """Await a call for so long. Raises: StoreUnavailable for whatever redis-py or the clock says.

        `is_flush`: an outage in which it failed lasts until it succeeds. Of the rest, something is called all the time.
        """
        try:
            answer = await _within(timeout_s, call)
        except (RedisError, OSError, TimeoutError) as error:
            words = self._explain(error)
            if isinstance(error, ResponseError):
                await self._leave_server()
            self._failed_at = time.monotonic()
            self._has_flush_failed |= is_flush
            self._outage.wait(f"{words}; readings wait")
            raise StoreUnavailable(words) from error
        if self._outage.waited_s:
            self._has_flush_failed &= not is_flush
            if not self._has_flush_failed and time.monotonic() - self._failed_at > _CALM_S:
                self._outage.end(f"{self._where()}: all is well again")
        return answer

    async def _leave_server(self) -> None:
        """Use no connection again that is open now, lookups' neither: what refuses may be a server of yesterday.

        When the master has moved behind its address (a DNS name, a Kubernetes Service, a proxy), old connections reach
        what is a replica now. It answers, what it reads out is stale, and it refuses every write for ever.
        """
        for client in (self.writer, self.reader):
            pool = client.connection_pool
            if isinstance(pool, _Pool):
                await pool.renew()

    def _where(self, settings: str = "") -> str:
        where = f"Redis at {self._settings.host}:{self._settings.port}"
        return f"{where} ({settings})" if settings else where

    def _explain(self, error: Exception) -> str:
        """Say where, which settings it may be, and what is wrong. No error of Redis or of the system holds a secret."""
        words, settings = _own_words(error), ""
        if isinstance(error, redis.TimeoutError):
            words, settings = f"no answer within {self._settings.timeout_s:g} s", _ADDRESS
        elif isinstance(error, AuthenticationError):
            settings = "REDIS_PASSWORD"
        elif isinstance(error, InvalidResponse):
            words, settings = f"what answers there is not Redis: {words}", _ADDRESS
        elif isinstance(error, OSError | redis.ConnectionError) and not isinstance(error, BusyLoadingError):
            words, settings = _system_words(error) or words, _ADDRESS
        elif _ABOUT_DB.match(words):
            settings = f"REDIS_DB={self._settings.db}"
        return f"{self._where(settings)}: {words}"


class _Pool(redis.BlockingConnectionPool):
    async def renew(self) -> None:
        """Let every connection connect anew before its next use; those in use when their call has ended.

        Not `disconnect`, which closes a connection while a call may be taking it.
        """
        for connection in self._in_use_connections:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        for connection in list(self._available_connections):
            await connection.disconnect(nowait=True)  # awaits nothing then, so nobody comes between


async def _greet(connection: AbstractConnection) -> None:
    """Log in, and give the connection a name in CLIENT LIST where that is allowed: it is only decoration."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "SETNAME", _CLIENT_NAME, check_health=False)
    with suppress(ResponseError):
        await connection.read_response()


async def _within(timeout_s: float, call: Awaitable[Any]) -> Any:
    """Await a call for so long. Raises: TimeoutError.

    The call runs in a task of its own that the clock doesn't wait for: redis-py sends by `asyncio.wait_for`, which on
    Python 3.11 may swallow a cancellation (python/cpython#86296), and with it a time limit set around it.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if done:
            return task.result()
    finally:
        task.cancel()
    raise TimeoutError(f"no answer within {timeout_s:g} s")


def _system_words(error: BaseException | None) -> str:
    """Return what the system said, empty where the error didn't come of that."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if isinstance(error, socket.gaierror):
        return "name not known" if error.errno in _NO_SUCH_NAME else f"the name can't be looked up: {error.strerror}"
    number = error and error.errno
    if (
        error and not number and (found := re.search(r"\[Errno (\d+)\]", str(error)))
    ):  # of the first of several addresses
        number = int(found[1])
    return os.strerror(number).lower() if number else ""


def _own_words(error: BaseException) -> str:
    """Return an error's text: Redis' own, with its code and without the trace of a script."""
    words = _SCRIPT_TRACE.sub("", str(error)).rstrip(".")
    code = getattr(error, "status_code", None)
    return words if code in {None, "ERR"} or words.startswith(code) else f"{code} {words}"
