"""The types that travel: what comes in from Kafka, and what is kept of it.

`ValidatedOutput` is the one definition of the input's schema.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, NoReturn, Optional, Protocol

import faust
import msgspec

from stream_cache.errors import BadRecord
from stream_cache.metadata import Metadata, read_metadata
from stream_cache.times import to_ms

#: Kafka's timestamp of a record that has none.
NO_TIMESTAMP = -1
#: What the entries of one HTTP answer may amount to, as JSON (the contract, section 4).
MAX_ANSWER_BYTES = 16 * 2**20


class ValidatedOutput(faust.Record, serializer="json"):
    """One reading as the normalizer writes it to the source topic (the contract, section 1)."""

    request_id: str
    timestamp: str
    device_id: str
    values: list[Any]
    index: Optional[str] = ""  # noqa: UP045 - Faust reads annotations, and knows no `X | Y`
    metadata: Optional[dict[str, Any]] = None  # noqa: UP045 - as above
    label: Any = None
    labels: Any = None
    display_names: Any = None


class AnyList(msgspec.Struct, array_like=True, gc=False):
    """A JSON list whose items are skipped: msgspec skips those that an array-like struct has no fields for."""


class AnyObject(msgspec.Struct, gc=False):
    """A JSON object whose members are skipped."""


class Wire(msgspec.Struct, gc=False):
    """What is judged of a `ValidatedOutput`, whose fields and defaults a test holds it to."""

    request_id: str
    timestamp: Annotated[str, msgspec.Meta(min_length=8)]  # "20261122"
    device_id: Annotated[str, msgspec.Meta(min_length=1)]
    values: AnyList
    index: str | None = ""
    metadata: AnyObject | None = None


def format_time(moment: datetime) -> str:
    """Return a naive UTC time as the contract writes it: `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    if moment.microsecond:  # msgspec writes no fraction of zero, and the others four times as fast
        return f"{msgspec.to_builtins(moment)}Z"
    return moment.isoformat(timespec="microseconds") + "Z"


def now() -> datetime:
    """Return the time, naive and UTC, as all times here."""
    return datetime.now(UTC).replace(tzinfo=None)


def json_text(value: Any) -> str:
    """Return the JSON text of a decoded value."""
    text = json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8; JSON can still say it, escaped.
    return text if is_unicode(text) else json.dumps(value)


def is_json(text: bytes) -> bool:
    """Tell whether a text is JSON that can be read here: one that is nested too deeply is not."""
    try:
        decoded = text.decode()  # msgspec doesn't look into texts that it skips
        with suppress(msgspec.DecodeError):
            msgspec.json.decode(text, type=msgspec.Raw)
            return True
        # msgspec takes no half of a surrogate pair, which JSON may hold, escaped.
        json.loads(decoded, parse_constant=refuse_constant, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def refuse_constant(name: str) -> NoReturn:
    """Be the `parse_constant` of `json.loads`, which would take NaN and Infinity. Raises: ValueError."""
    raise ValueError(f"{name} is no JSON")


def is_unicode(text: str) -> bool:
    """Tell whether a text has a UTF-8 form: JSON may smuggle in half of a surrogate pair, which has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


class PutResult(NamedTuple):
    """What became of readings handed to a sink: counts, and those that its state makes impossible to write."""

    written_count: int
    stale_count: int
    expired_count: int
    refused: Sequence[tuple[Reading, BadRecord]] = ()
