# ruff: noqa: INP001 - a program of the image, no package
"""Tell Docker whether the worker in this container lives: the image's HEALTHCHECK.

Asks `GET /health/live` at `WEB_PORT`. Exits 0 when the answer is 200; else 1, with one line on stderr that says why
(`docker inspect` shows it). Takes 3 s at most, less than the HEALTHCHECK's own limit, so that the line is seen.
Standard library only, and http.client rather than urllib: no proxy of the environment can lead it elsewhere.
"""

import http.client
import os
import pathlib
import ssl
import sys

TIMEOUT_S = 2.5
REASON_MAX_BYTES = 500
# An address to listen on that stands for "all of them" is none to connect to.
LOOPBACK_OF = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def find_fault() -> str | None:
    """Return why the worker does not count as alive, or None when it does."""
    bind = os.environ.get("WEB_BIND", "").strip().strip("[]")
    port = os.environ.get("WEB_PORT", "").strip() or "6066"
    try:
        connection = _connection(LOOPBACK_OF.get(bind, bind), int(port))
        token = _token()
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request("GET", "/health/live", headers=headers)
        response = connection.getresponse()
        if response.status == http.HTTPStatus.OK:
            return None
        body = response.read(REASON_MAX_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        return f"no answer at port {port}: {type(error).__name__}: {error}"
    return f"/health/live answered {response.status}: {' '.join(body.split())}"


def _token() -> str:
    path = os.environ.get("API_TOKEN_FILE", "").strip()
    return (pathlib.Path(path).read_text(encoding="utf-8") if path else os.environ.get("API_TOKEN", "")).strip()


def _connection(host: str, port: int) -> http.client.HTTPConnection:
    if not os.environ.get("WEB_TLS_CERT_FILE", "").strip():
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    # The certificate names the host that clients see, not the loopback address.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)


if __name__ == "__main__":
    sys.exit(find_fault())
