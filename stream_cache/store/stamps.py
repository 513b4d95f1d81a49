"""What a hash keeps of the event that won: `offset:partition:delay`. The delay is from event to Kafka timestamp, in ms.

With the event time it gives the Kafka timestamp, in ten bytes less: as Redis allocates, 32 a device.
"""

from __future__ import annotations

from datetime import datetime

from stream_cache.readings.reading import Reading
from stream_cache.readings.times import to_ms


def stamp_of(event: Reading, record_ms: int) -> str:
    """Return what the hash keeps where this event wins, whose Kafka timestamp this is."""
    return f"{event.raw.offset}:{event.partition}:{record_ms - to_ms(event.event_time)}"


def kafka_ms(event_time: str, delay: str) -> int:
    """Return a winner's Kafka timestamp. Raises: ValueError for texts that are not ours."""
    return to_ms(datetime.fromisoformat(event_time.removesuffix("Z"))) + int(delay)
