"""What the made-up readings of all fleets are written with, and what such a reading is before it is a record."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

US: Final = 1_000_000
EPOCH_S: Final = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
STEP_US: Final = 997  # event time between two requests: about a thousand requests a second
LATE_MAX_US: Final = 30 * US


class Body(NamedTuple):
    """A reading without a place in Kafka; `at_us` is its event time, counted from EPOCH_S."""

    device_id: str
    at_us: int
    has_metadata: bool
    value: bytes


@lru_cache(maxsize=100_000)
def second_text(second: int) -> str:
    """Write a second, counted from EPOCH_S, as ISO 8601 without a zone."""
    return datetime.fromtimestamp(EPOCH_S + second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def request_id(bits: int) -> str:
    """Write 128 bits as a UUID."""
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def compact(value: dict[str, Any]) -> str:
    """Write JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
