"""What travels: a raw record, the reading that it says, and the latest of each device."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

import msgspec

from stream_cache.readings.metadata import Metadata, read_metadata
from stream_cache.readings.times import to_ms

#: Kafka's timestamp of a record that has none.
NO_TIMESTAMP = -1


class RawRecord(Protocol):
    """A record of a known partition, as aiokafka hands it over."""

    @property
    def offset(self) -> int:
        """Offset within the partition."""

    @property
    def timestamp(self) -> int:
        """Kafka timestamp, in milliseconds since 1970 UTC; -1 for none."""

    @property
    def key(self) -> bytes | None:
        """Key, in practice the device id."""

    @property
    def value(self) -> bytes | None:
        """JSON text, None for a tombstone."""


class Record(msgspec.Struct, gc=False):
    """A raw record of the source topic."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @classmethod
    def of(cls, raw: RawRecord, partition: int) -> Record:
        """Add to a record where it comes from."""
        return cls(partition, raw.offset, raw.timestamp, raw.key, raw.value)


class Reading(msgspec.Struct, gc=False):
    """A decoded record that says something of a device: a reading with metadata, or a tombstone, which forgets it.

    `event_time` is naive and means UTC. `seen_ms` is the largest Kafka timestamp, in ms since 1970, of this reading and
    those that it was merged with; 0 for a tombstone that was merged with none. The metadata is read when it is asked
    for: most readings are overtaken by a newer one before.
    """

    device_id: str
    event_time: datetime
    raw: RawRecord
    partition: int
    seen_ms: int = 0

    @property
    def is_tombstone(self) -> bool:
        """Whether it forgets the device."""
        return self.raw.value is None

    @property
    def metadata(self) -> Metadata:
        """What is kept of the metadata. Not for a tombstone."""
        return read_metadata(self.raw.value or b"")

    @property
    def record(self) -> Record:
        """The record that said it."""
        return Record.of(self.raw, self.partition)

    @property
    def record_ms(self) -> int:
        """From when the TTL counts: the Kafka timestamp, or the event time where the record has none."""
        timestamp = self.raw.timestamp
        return timestamp if timestamp != NO_TIMESTAMP else to_ms(self.event_time)

    def is_newer_than(self, other: Reading) -> bool:
        """The order of the contract, section 2: by event time, then Kafka offset, then partition."""
        if self.event_time != other.event_time:
            return self.event_time > other.event_time
        return (self.raw.offset, self.partition) > (other.raw.offset, other.partition)


class Latest(msgspec.Struct):
    """The latest event of each device, by device id."""

    by_device: dict[str, Reading] = {}

    def keep(self, event: Reading) -> None:
        """Take in an event, unless a later one of its device is held."""
        self.merge((event,))

    def merge(self, events: Iterable[Reading]) -> None:
        """Take in many, in any order."""
        by_device = self.by_device
        for event in events:
            held = by_device.get(event.device_id)
            # The first comparison decides nearly always, and spares a call.
            if held is None:
                by_device[event.device_id] = event
            elif event.event_time > held.event_time or event.is_newer_than(held):
                event.seen_ms = max(event.seen_ms, held.seen_ms)
                by_device[event.device_id] = event
            elif event.seen_ms > held.seen_ms:
                held.seen_ms = event.seen_ms

    def take_over(self, other: Latest) -> None:
        """Take in the latest of another partition. Usually they have no device in common, as keys decide: at once."""
        if self.by_device.keys().isdisjoint(other.by_device):
            self.by_device.update(other.by_device)
        else:
            self.merge(other.by_device.values())
