"""The web server: Faust's aiohttp driver with limits, a token, and every error as an answer.

Between aiohttp and `routes/`. Faust's own pages are closed: they show internals.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import faust
import mode
from aiohttp import hdrs, web
from faust.web.drivers import aiohttp as driver

from stream_cache.errors import AddressRefused, AnswerTooLarge, StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.settings import WebSettings
from stream_cache.web.answers import HEADERS, MAX_BODY_BYTES, ApiError, error_response, http_error
from stream_cache.web.connections import Runner

_BODY_TIMEOUT_S = 10.0
_RETRY_AFTER_S = 1
_PROBES = ("/health/", "/metrics")
_logger = mode.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer(driver.Web):
    """Faust's web driver, which has no knobs for limits, and none of Faust's pages."""

    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()

    def __init__(self, app: faust.App, settings: WebSettings, metrics: Metrics, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._settings, self._metrics = settings, metrics
        self.web_app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._check])
        self.web_app.on_response_prepare.append(_add_headers)
        self._runner = Runner(self.web_app, max_connections=settings.max_connections, keepalive_s=settings.keepalive_s)

    async def start_server(self) -> None:
        """Listen. Raises: AddressRefused."""
        try:
            await super().start_server()
        except OSError as error:
            raise AddressRefused(_why_refused(error, self.app.conf.web_bind, self.app.conf.web_port)) from error

    def _new_transport_tcp(self) -> web.BaseSite:
        address, port = self.app.conf.web_bind, self.app.conf.web_port
        if address != "::":
            return super()._new_transport_tcp()
        # asyncio, told this address, listens to IPv6 alone.
        listener = socket.create_server((address, port), family=socket.AF_INET6, dualstack_ipv6=True)
        return web.SockSite(self._runner, listener, ssl_context=self.app.conf.web_ssl_context)

    @web.middleware
    async def _check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Ask for the token, and answer every error as JSON."""
        try:
            self._check_token(request)
            return await handler(request)
        except StoreUnavailable:
            self._metrics.lookup_failed()
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "redis_unavailable", "Redis does not answer", headers)
        except AnswerTooLarge as error:
            return error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "answer_too_large", str(error))
        except ApiError as error:
            return error_response(error.status, error.code, error.message, error.headers)
        except web.HTTPException as error:
            return http_error(error, request.path)
        except Exception:
            _logger.exception("a request failed: %s %.200r", request.method, request.path)
            return error_response(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the request failed; the log says why"
            )

    def _check_token(self, request: web.Request) -> None:
        token = self._settings.api_token
        # `GET /` shows no data, and some balancers know no other path to look at.
        is_probe = request.path == "/" or request.path.startswith(_PROBES)
        if not token or (is_probe and not self._settings.health_needs_token):
            return
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(sent.strip().encode(errors="surrogateescape"), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            message = "send the token in the header Authorization: Bearer ..."
            raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


async def read_body(request: web.Request) -> bytes:
    """Read a request's body, up to 1 MiB and for up to 10 s. Raises: ApiError, or aiohttp's 413."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES)
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
    response.headers.update(HEADERS)
