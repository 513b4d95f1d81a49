"""The web server: Faust's aiohttp driver with limits, a token, and every error in the contract's form.

Between aiohttp and `views.py`. Faust's own pages are closed: they show internals.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import faust
import mode
import msgspec
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler
from faust.web.drivers import aiohttp as driver

from stream_cache.errors import AddressRefused, StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.settings import Settings

_MAX_BODY_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 65_536  # a device id of 10 kB, percent-encoded
_MAX_HEADER_BYTES, _MAX_HEADER_COUNT = 8192, 64
#: How long a connection may be idle, take to send the head of a request, or leave an answer unread.
_IDLE_TIMEOUT_S = 15.0
_BODY_TIMEOUT_S = 10.0
#: How long a refused request's body is still taken in, so that the client reads the answer.
_LINGERING_S = 1.0
#: What the last requests get, twice, once all else has stopped: a client that dribbles must not hold up the exit.
_SHUTDOWN_TIMEOUT_S = 0.5
_RETRY_AFTER_S = 1
_OPEN_WITHOUT_TOKEN = ("/health/", "/metrics")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "Server": "stream_cache",
    "X-Content-Type-Options": "nosniff",
}
_logger = mode.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer that is an error: `code` is one of the contract's, section 4."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers
        super().__init__(message)


class WebServer(driver.Web):
    """Faust's web driver, which has no knobs for limits, and none of Faust's pages."""

    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()

    def __init__(self, app: faust.App, settings: Settings, metrics: Metrics, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._settings, self._metrics = settings, metrics
        self.web_app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._check])
        self.web_app.on_response_prepare.append(_add_headers)
        self._runner = _Runner(
            self.web_app,
            max_connections=settings.web_max_connections,
            access_log=None,
            keepalive_timeout=_IDLE_TIMEOUT_S,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADER_COUNT,
            auto_decompress=False,  # a few kB may stand for gigabytes
            shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            lingering_time=_LINGERING_S,
        )

    async def start_server(self) -> None:
        """Listen. Raises: AddressRefused."""
        try:
            await super().start_server()
        except OSError as error:
            raise AddressRefused(_why_refused(error, self.app.conf.web_bind, self.app.conf.web_port)) from error

    @web.middleware
    async def _check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Ask for the token, and answer every error as JSON."""
        try:
            self._check_token(request)
            return await handler(request)
        except StoreUnavailable:
            self._metrics.lookup_failed()
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "redis_unavailable", "Redis does not answer", headers)
        except ApiError as error:
            return _error(error.status, error.code, error.message, error.headers)
        except web.HTTPException as error:
            return _http_error(error)
        except Exception:
            _logger.exception("a request failed: %s %.200r", request.method, request.path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the request failed; the log says why")

    def _check_token(self, request: web.Request) -> None:
        token = self._settings.api_token
        if not token or (not self._settings.health_needs_token and request.path.startswith(_OPEN_WITHOUT_TOKEN)):
            return
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(sent.strip().encode(errors="surrogateescape"), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            message = "send the token in the header Authorization: Bearer ..."
            raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


async def read_body(request: web.Request) -> bytes:
    """Read a request's body, up to 1 MiB and for up to 10 s. Raises: ApiError, or aiohttp's 413."""
    if (request.content_length or 0) > _MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(_MAX_BODY_BYTES)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", "the body must not be compressed")
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        message = f"the body did not arrive within {_BODY_TIMEOUT_S:g} s"
    except ConnectionError:
        message = "the body broke off"  # for nobody to read: the client has gone
    raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", message, {"Connection": "close"})


def json_response(body: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


class _Connection(RequestHandler):
    """Answers what is no HTTP in the contract's form too, and keeps it out of the log."""

    __slots__ = ()

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
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux, tcp(7); it looks only when it probes: up to twice as long
            limit_ms = int(_IDLE_TIMEOUT_S * 1000)
            with suppress(OSError):  # no TCP, or gone already
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

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
        response = _error(status, "invalid_request", "this is no HTTP request, or a part of it is too long", _HEADERS)
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


class _Runner(web.AppRunner):
    """Runs the application on our server: aiohttp's own can be told neither the class nor a limit of connections."""

    async def _make_server(self) -> web.Server:
        theirs = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await theirs.request_handler(request)
            except web.HTTPException as error:  # raised before our middleware: an Expect that can't be met
                return _http_error(error)

        return _Server(handle, request_factory=theirs.request_factory, **self._kwargs)


def _why_refused(error: OSError, address: str, port: int) -> str:
    match error:
        case socket.gaierror() | OSError(errno=errno.EADDRNOTAVAIL):
            return f"{address!r} is not an address of this machine (WEB_BIND)"
        case OSError(errno=errno.EADDRINUSE):
            return f"port {port} is in use (WEB_PORT)"
        case OSError(errno=errno.EACCES | errno.EPERM):
            return f"no permission to listen on port {port} (WEB_PORT): choose one from 1024 on"
    return f"can't listen on {address!r} port {port} (WEB_BIND, WEB_PORT): {error}"


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _http_error(error: web.HTTPException) -> web.Response:
    """Say in the contract's form what aiohttp refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{error.method} is not allowed here; allowed: {allowed}"
        return _error(error.status, "method_not_allowed", message, {"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _error(error.status, "body_too_large", f"the body is larger than {_MAX_BODY_BYTES} bytes")
    if isinstance(error, web.HTTPNotFound):
        return _error(error.status, "not_found", "there is nothing at this path")
    return _error(HTTPStatus.BAD_REQUEST, "invalid_request", error.reason)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return json_response({"error": {"code": code, "message": message}}, status, headers)
