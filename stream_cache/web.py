"""The web server: Faust's aiohttp driver, with every error in the contract's form and Faust's own pages closed.

Between aiohttp and `views.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import mode
import msgspec
from aiohttp import web
from faust.web.drivers import aiohttp as driver

from stream_cache.errors import StoreUnavailable

MAX_BODY_BYTES = 1024 * 1024
_RETRY_AFTER_S = 1
_logger = mode.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer that is an error: `code` is one of the contract's, section 4."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


class WebServer(driver.Web):
    """Serves what it is given, and none of Faust's pages: those show internals."""

    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()


def json_response(body: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


def application_options() -> dict[str, Any]:
    """Return what Faust hands to aiohttp's application."""
    return {"client_max_size": MAX_BODY_BYTES, "middlewares": [_errors_as_json]}


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StoreUnavailable:
        request.app["on_store_unavailable"]()
        headers = {"Retry-After": str(_RETRY_AFTER_S)}
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "redis_unavailable", "Redis does not answer; try again", headers)
    except ApiError as error:
        return _error(error.status, error.code, error.message)
    except web.HTTPException as error:
        return _http_error(error)
    except Exception:
        _logger.exception("a request failed: %s %r", request.method, request.path)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the request failed; the log says why")


def _http_error(error: web.HTTPException) -> web.Response:
    """Say in the contract's form what aiohttp refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{error.method} is not allowed here; allowed: {allowed}"
        return _error(error.status, "method_not_allowed", message, {"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _error(error.status, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(error, web.HTTPNotFound):
        return _error(error.status, "not_found", "there is nothing at this path")
    return _error(error.status, "invalid_request", error.reason)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return json_response({"error": {"code": code, "message": message}}, status, headers)
