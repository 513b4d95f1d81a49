"""Load on an HTTP server: requests per second at full speed, and the latency of one request after another."""

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

CONNECTIONS: Final = 16


class LoadError(Exception):
    """The server did not answer every request as it must."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A GET, or a POST when there is a body."""

    path: str
    body: str = ""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


def requests_per_s(url: str, requests: Sequence[Request], *, seconds: int, directory: Path) -> float:
    """Send the requests over and over through 16 connections; wrk does it where it is installed, else aiohttp.

    aiohttp's client costs about as much as the servers that are measured: a ratio is then held down towards 1.

    Raises: LoadError.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        return asyncio.run(_aiohttp_requests_per_s(url, requests, seconds))
    script = directory / "requests.lua"
    script.write_text(_lua(requests))
    said = subprocess.run(
        [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if not found or "Non-2xx" in said or "Socket errors" in said:
        raise LoadError(said)
    return float(found[1])


def _lua(requests: Sequence[Request]) -> str:
    """Write a wrk script that formats every request once. A JSON string is a Lua string, as long as it is ASCII."""
    formatted = ",\n".join(
        f"wrk.format({json.dumps(r.method)}, {json.dumps(r.path)}, nil, {_lua_text(r.body)})" for r in requests
    )
    return f"""
local requests, sent
function init(args)
  requests = {{{formatted}}}
  sent = 0
end
function request()
  sent = sent + 1
  return requests[sent % #requests + 1]
end
"""


def _lua_text(text: str) -> str:
    return f"[==[{text}]==]" if text else "nil"


async def _aiohttp_requests_per_s(url: str, requests: Sequence[Request], seconds: int) -> float:
    answered = 0
    coming = cycle(requests)

    async def keep_asking(session: aiohttp.ClientSession, until_s: float) -> None:
        nonlocal answered
        while time.perf_counter() < until_s:
            request = next(coming)
            async with session.request(request.method, request.path, data=request.body or None) as answer:
                await answer.read()
                if answer.status != 200:
                    raise LoadError(f"{answer.status} for {request.path}")
            answered += 1

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        begun_s = time.perf_counter()
        await asyncio.gather(*(keep_asking(session, begun_s + seconds) for _ in range(CONNECTIONS)))
        return answered / (time.perf_counter() - begun_s)


def latencies_ms(
    url: str,
    requests: Sequence[Request],
    *,
    while_true: Callable[[], bool],
    pause_s: float = 0.0,
    accepted: Collection[int] = (200,),
) -> list[float]:
    """Send one request after another on one connection while the condition holds; it is asked before each.

    Raises: LoadError for a status that is not accepted.
    """
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=30)
    found: list[float] = []
    coming = cycle(requests)
    try:
        while while_true():
            request = next(coming)
            asked_s = time.perf_counter()
            connection.request(request.method, request.path, request.body or None)
            answer = connection.getresponse()
            answer.read()
            found.append((time.perf_counter() - asked_s) * 1e3)
            if answer.status not in accepted:
                raise LoadError(f"{answer.status} for {request.path}")
            time.sleep(pause_s)
    finally:
        connection.close()
    return found


def times(count: int) -> Callable[[], bool]:
    """Make a condition that holds `count` times."""
    left = iter(range(count))
    return lambda: next(left, None) is not None


def percentile(values: Sequence[float], percent: int) -> float:
    """Give a percentile; of a single value, that value."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
