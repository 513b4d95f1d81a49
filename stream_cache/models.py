"""The types that travel: what comes in from Kafka, and what is kept of it.

Imports nothing of the package but its errors. `ValidatedOutput` is the one definition of the input's schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, NoReturn, Optional, Protocol

import faust
import msgspec

from stream_cache.errors import BadRecord

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


_NULL = msgspec.Raw(b"null")


class Metadata(msgspec.Struct, gc=False):
    """What is kept of a reading's metadata: each field's JSON text exactly as it came, `null` where it is absent.

    A gateway may have put any JSON value in the place of the usual ones, so none of them has a type.
    """

    datatype_id: msgspec.Raw = _NULL
    datatype_name: msgspec.Raw = _NULL
    datatype_unit: msgspec.Raw = _NULL
    persist: msgspec.Raw = _NULL


class Wire(msgspec.Struct, gc=False):
    """What is judged of a `ValidatedOutput`, whose fields and defaults a test holds it to."""

    request_id: str
    timestamp: Annotated[str, msgspec.Meta(min_length=8)]  # "20261122"
    device_id: Annotated[str, msgspec.Meta(min_length=1)]
    values: AnyList
    index: str | None = ""
    metadata: Metadata | None = None


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


class SourceRecord(Protocol):
    """A raw record of the source topic, as aiokafka hands it over."""

    @property
    def partition(self) -> int:
        """Partition of the source topic."""

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


class Reading(msgspec.Struct, gc=False):
    """A decoded record that says something of a device.

    `metadata` is None for a tombstone, which forgets the device. `event_time` is naive and means UTC. `record_ms`, from
    which the TTL counts, is the Kafka timestamp, or the event time where the record has none.
    """

    device_id: str
    event_time: datetime
    metadata: Metadata | None
    record: SourceRecord
    record_ms: int

    def is_newer_than(self, other: Reading) -> bool:
        """The order of the contract, section 2: by event time, then Kafka offset, then partition."""
        if self.event_time != other.event_time:
            return self.event_time > other.event_time
        mine, others = self.record, other.record
        return (mine.offset, mine.partition) > (others.offset, others.partition)


class PutResult(NamedTuple):
    """What became of readings handed to a sink: counts, and those that its state makes impossible to write."""

    written_count: int
    stale_count: int
    expired_count: int
    refused: Sequence[tuple[Reading, BadRecord]] = ()
