"""The connections of the web server: how many there may be, how long and how large what comes over one may be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stream_cache.web.answers import HEADERS, error_response, http_error

_MAX_LINE_BYTES = 65_536  # a device id of 10 kB, percent-encoded
#: Of one header, its name included, and how many: 32 kB of cookies, 100 headers (the contract) and what proxies add.
_MAX_HEADER_BYTES, _MAX_HEADER_COUNT = 36_864, 128
#: Of a request's head in all, or each connection could hold `_MAX_HEADER_COUNT` large ones.
_MAX_HEAD_BYTES = 131_072
#: How long the head of a request may take, from its first byte or from the connection's beginning.
_HEAD_TIMEOUT_S = 15.0
#: How long an answer may stay unread.
_UNREAD_TIMEOUT_S = 15.0
#: How long a refused request's body is still taken in, so that the client reads the answer.
_LINGERING_S = 1.0
#: What the last requests get, twice, once all else has stopped: a client that dribbles must not hold up the exit.
_SHUTDOWN_TIMEOUT_S = 0.5


class _Connection(RequestHandler):
    """Bounds a request's head in time and size, and answers what is not HTTP in the contract's form, out of the log.

    aiohttp has one limit of time for a connection that waits, whether for a request or for the rest of one.
    """

    __slots__ = ("_head_bytes", "_head_timer")

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, or for the rest of a request's head."""
        return self._waiter is not None and not self._waiter.done() and not self._force_close

    @property
    def has_asked(self) -> bool:
        """Whether a request has ever come."""
        return self._request_count > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a limit for a client that does not read what it asked for."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._begin_head()  # of the first request at once: a silent connection has no business here
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux, tcp(7); it looks only when it probes: up to twice as long
            limit_ms = int(_UNREAD_TIMEOUT_S * 1000)
            with suppress(OSError):  # no TCP, or gone already
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

    def data_received(self, data: bytes) -> None:
        """Take what has come, and see whether it completes a request's head."""
        super().data_received(data)
        if not self.is_idle:
            self._end_head()
            return
        if self._head_timer is None:
            self._begin_head()
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._end_head()
            super().data_received(b"\0")  # no head may hold it: the parser refuses this one

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._end_head()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        if self._head_timer is None:
            super()._process_keepalive()
        else:  # it has a limit of its own; the next answer sets this one anew
            self._keepalive_handle = None

    def _begin_head(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(_HEAD_TIMEOUT_S, self._give_up_head)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer, self._head_bytes = None, 0

    def _give_up_head(self) -> None:
        if self.is_idle:
            self.force_close()

    def drop(self) -> None:
        """Close it at once."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - as above
        message: str | None = None,  # noqa: ARG002 - as above
    ) -> web.StreamResponse:
        """Refuse what the parser could not read."""
        response = error_response(
            status, "invalid_request", "malformed HTTP request, or a part of it is too long", HEADERS
        )
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


class _Server(web.Server):
    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections

    def __call__(self) -> Any:
        if len(self._connections) >= self._max_connections and not self._drop_idle_one():
            return _Refusal()
        return _Connection(self, loop=self._loop, **self._kwargs)

    def _drop_idle_one(self) -> bool:
        """Make room for a new connection: silent ones must keep nobody out, a health probe least of all."""
        oldest_first = cast("Iterable[_Connection]", self._connections)
        idle = (connection for connection in oldest_first if connection.is_idle)
        first = next(idle, None)
        if first is None:
            return False
        silent = first if not first.has_asked else next((other for other in idle if not other.has_asked), first)
        silent.drop()
        return True


class Runner(web.AppRunner):
    """Runs the application on our server: aiohttp's own takes neither the class nor a limit of connections."""

    def __init__(self, app: web.Application, *, max_connections: int, keepalive_s: float) -> None:
        super().__init__(
            app,
            max_connections=max_connections,
            access_log=None,
            keepalive_timeout=keepalive_s,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADER_COUNT,
            auto_decompress=False,  # a few kB may stand for gigabytes
            shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            lingering_time=_LINGERING_S,
        )

    async def _make_server(self) -> web.Server:
        theirs = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await theirs.request_handler(request)
            except web.HTTPException as error:  # raised before our middleware: an Expect that can't be met
                return http_error(error, request.path)

        return _Server(handle, request_factory=theirs.request_factory, **self._kwargs)
