"""What a hash keeps of the event that won: `offset:partition:delay`. The delay is from event to Kafka timestamp, in ms.

With the event time it gives the Kafka timestamp, in ten bytes less: as Redis allocates, 32 a device.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from stream_cache.models import Reading

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all event times are naive UTC
_MILLISECOND = timedelta(milliseconds=1)


def stamp_of(event: Reading) -> str:
    """Return what the hash keeps where this event wins."""
    record = event.record
    return f"{record.offset}:{record.partition}:{record.timestamp - _ms(event.event_time)}"


def kafka_ms(event_time: str, delay: str) -> int:
    """Return a winner's Kafka timestamp. Raises: ValueError for texts that are not ours."""
    return _ms(datetime.fromisoformat(event_time.removesuffix("Z"))) + int(delay)


def _ms(event_time: datetime) -> int:
    since = event_time - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
