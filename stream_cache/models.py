"""The types that travel: what comes in from Kafka, and what is kept of it.

Imports nothing of the package but its errors. `ValidatedOutput` is the one definition of the input's schema; the fast
decoder in `decode.py` is derived from its fields.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn, Optional, Protocol

import faust
import msgspec

from stream_cache.errors import BadRecord


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


class Metadata(msgspec.Struct, gc=False):
    """What is kept of a reading's metadata.

    The types are the usual ones, which the fast decoder takes. A gateway may have put any other JSON value in their
    place: it is kept as it is, a `msgspec.Raw` with its JSON text.
    """

    datatype_id: str | None = None
    datatype_name: str | None = None
    datatype_unit: str | list[str] | None = None
    persist: bool | list[bool] | None = None


_write_json = msgspec.json.Encoder().encode


def format_time(moment: datetime) -> str:
    """Return a naive UTC time as the contract writes it: `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    if moment.microsecond:  # msgspec writes no fraction of zero, and the others four times as fast
        return f"{_write_json(moment)[1:-1].decode()}Z"
    return moment.isoformat(timespec="microseconds") + "Z"


def now() -> datetime:
    """Return the time, naive and UTC, as all times here."""
    return datetime.now(UTC).replace(tzinfo=None)


def json_text(value: Any) -> str:
    """Return the JSON text of a decoded value: `true`, `["m", "s"]`.

    Raises: RecursionError for a value that is nested too deeply.
    """
    text = _dump(value, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8; JSON can still say it, escaped.
    return text if is_unicode(text) else _dump(value, ensure_ascii=True)


def _dump(value: Any, *, ensure_ascii: bool) -> str:
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii)
    except TypeError:  # a number that no float holds, kept as a Raw somewhere inside
        return _dump_with_raws(value, ensure_ascii=ensure_ascii)


def _dump_with_raws(value: Any, *, ensure_ascii: bool) -> str:
    def dump(inner: Any) -> str:
        if isinstance(inner, msgspec.Raw):
            return bytes(inner).decode()
        if isinstance(inner, list):
            return f"[{', '.join(map(dump, inner))}]"
        if isinstance(inner, dict):
            return f"{{{', '.join(f'{dump(key)}: {dump(held)}' for key, held in inner.items())}}}"
        return json.dumps(inner, ensure_ascii=ensure_ascii)

    return dump(value)


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
        """Kafka timestamp, in milliseconds since 1970 UTC."""

    @property
    def key(self) -> bytes | None:
        """Key, in practice the device id."""

    @property
    def value(self) -> bytes | None:
        """JSON text, None for a tombstone."""


class Reading(msgspec.Struct, gc=False):
    """A decoded record that says something of a device.

    `metadata` is None for a tombstone, which forgets the device. `event_time` is naive and means UTC. `seen_ms` is the
    largest Kafka timestamp of the readings that it was merged with; 0 where it was not.
    """

    device_id: str
    event_time: datetime
    metadata: Metadata | None
    record: SourceRecord
    seen_ms: int = 0

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
