"""Where a flush goes: what the pipeline asks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stream_cache.errors import BadRecord
from stream_cache.readings.reading import Reading


class PutResult(NamedTuple):
    """What became of readings handed to a sink: counts, and those that its state makes impossible to write."""

    written_count: int
    stale_count: int
    expired_count: int
    refused: Sequence[tuple[Reading, BadRecord]] = ()


class Sink(Protocol):
    """Where the latest readings go. Repeating a call is harmless."""

    async def put_latest(self, events: Sequence[Reading]) -> PutResult:
        """Write each unless something newer is there. Raises StoreUnavailable when that can't be done now."""
