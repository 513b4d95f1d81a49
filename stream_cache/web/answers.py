"""Answers over HTTP: JSON, the headers that all have, and every error in the contract's form (section 4)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

MAX_BODY_BYTES = 1024 * 1024
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "Server": "stream_cache",
    "X-Content-Type-Options": "nosniff",
}


class ApiError(Exception):
    """An answer that is an error: `code` is one of the contract's, section 4."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers
        super().__init__(message)


def json_response(body: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON and a line break, which a terminal's next prompt needs; a `msgspec.Raw` is sent as it is."""
    content = b"".join((body if isinstance(body, msgspec.Raw) else msgspec.json.encode(body), b"\n"))
    # JSON is UTF-8 by definition, but Windows PowerShell reads Latin-1 where nothing is said.
    return web.Response(body=content, status=status, headers=headers, content_type="application/json", charset="utf-8")


def http_error(error: web.HTTPException, path: str) -> web.Response:
    """Say in the contract's form what aiohttp refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{error.method} is not allowed here; allowed: {allowed}"
        return error_response(error.status, "method_not_allowed", message, {"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error_response(error.status, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(error, web.HTTPNotFound):
        return error_response(error.status, "not_found", _nothing_at(path))
    return error_response(HTTPStatus.BAD_REQUEST, "invalid_request", error.reason)


def _nothing_at(path: str) -> str:
    """Say what may have been meant."""
    hints = ["GET / lists the paths"]
    if path.endswith("/"):
        hints.append("each has no slash at its end")
    if path.startswith("/devices/"):
        hints.append("a slash within an id is sent as %2F, or the id by POST /devices/metadata")
    return f"there is nothing at this path: {'; '.join(hints)}"


def error_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with an error: `code` is one of the contract's."""
    return json_response({"error": {"code": code, "message": message}}, status, headers)
