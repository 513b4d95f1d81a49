"""What travels: a raw record, the reading that it says, and the latest of each device."""

from __future__ import annotations

import itertools
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

    `event_time` is naive and means UTC. The metadata is read when it is asked for: most readings are overtaken by a
    newer one before.
    """

    device_id: str
    event_time: datetime
    raw: RawRecord
    partition: int

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
    """The latest of each device, by device id: its reading, and its tombstone.

    Both are kept: which one wins is the store's to say, and a tombstone's marker outlives the reading that beat it.
    """

    readings: dict[str, Reading] = {}
    tombstones: dict[str, Reading] = {}

    def keep(self, reading: Reading) -> None:
        """Take in a reading or a tombstone, unless something newer of its kind and device is held."""
        kept = self.tombstones if reading.raw.value is None else self.readings
        held = kept.get(reading.device_id)
        # The first comparison decides nearly always, and spares a call.
        if held is None or reading.event_time > held.event_time or reading.is_newer_than(held):
            kept[reading.device_id] = reading

    def merge(self, *kinds: Iterable[Reading]) -> None:
        """Take in many, in any order."""
        for reading in itertools.chain(*kinds):
            self.keep(reading)

    def take_over(self, other: Latest) -> None:
        """Take in the latest of another partition. Usually they have no device in common, as keys decide: at once."""
        for held, arrived in ((self.readings, other.readings), (self.tombstones, other.tombstones)):
            if held.keys().isdisjoint(arrived):
                held.update(arrived)
            else:
                self.merge(arrived.values())
