"""The demo: what it takes to see the service at work on a machine that has Python only.

    fleet -> sender -> Kafka (embedded, or a real one) -> a worker -> Redis (embedded, or a real one) -> live

`run` puts it together. Nothing of the service imports this package.
"""

from __future__ import annotations

from typing import NamedTuple

from stream_cache.errors import StreamCacheError


class DemoFailed(StreamCacheError):
    """The demo can't go on. The text says why, for a person; it may have several lines."""


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class DemoOptions(NamedTuple):
    """What the command line asks for: `kafka` and `redis` None for embedded ones, `rate` in readings per second."""

    kafka: Address | None
    redis: Address | None
    devices: int
    rate: int
