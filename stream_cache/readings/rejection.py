"""What an error record says of a bad record (the contract, section 3): valid JSON, whatever the bad record holds."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec

from stream_cache.errors import BadRecord
from stream_cache.readings.json_text import is_json, json_text
from stream_cache.readings.reading import Record
from stream_cache.readings.times import format_time

_SERVICE = "cache_service"


class ErrorRecord(NamedTuple):
    """A record for the error topic."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]

    @property
    def size_bytes(self) -> int:
        """About what it takes in a batch: the length fields of its parts are left out."""
        headers_bytes = sum([len(name) + len(text) for name, text in self.headers])
        return len(self.key or b"") + len(self.value) + headers_bytes


class Rejection(msgspec.Struct, frozen=True):
    """A bad record, and what is wrong with it.

    Made of a `BadRecord`, which is not kept: an exception holds on to the frames that it was raised in, and so to the
    record's parsed form and to all the other records of its chunk.
    """

    record: Record
    kind: str
    reason: str
    request_id: str | None
    refused_at: str

    @classmethod
    def of(cls, record: Record, bad: BadRecord) -> Rejection:
        """Take over what a `BadRecord` says."""
        return cls(record, bad.kind, bad.reason, bad.request_id, format_time(bad.refused_at))

    def encode(self, source_topic: str, original_max_bytes: int, *, has_request_id: bool = True) -> ErrorRecord:
        """Return the error record, with no more of the original than that, and with its request id or without."""
        request_id = self.request_id if has_request_id else None
        value = {
            "request_id": _as_json(request_id),
            "timestamp": self.refused_at,
            "service": _SERVICE,
            "error": _as_json(self.reason),
            "original_message": _original_message(self.record.value or b"", original_max_bytes),
        }
        headers = {
            "source.topic": source_topic,
            "source.partition": str(self.record.partition),
            "source.offset": str(self.record.offset),
            "source.timestamp": str(self.record.timestamp),
            "error.type": self.kind,
        }
        return ErrorRecord(
            None if request_id is None else request_id.encode(errors="backslashreplace"),
            msgspec.json.encode(value),
            [(name, text.encode()) for name, text in headers.items()],
        )


def _as_json(text: str | None) -> msgspec.Raw:
    """Return a text's JSON, also where it holds half of a surrogate pair."""
    try:
        return msgspec.Raw(msgspec.json.encode(text))
    except UnicodeEncodeError:
        return msgspec.Raw(json_text(text).encode())


def _original_message(value: bytes, max_bytes: int) -> Any:
    if len(value) > max_bytes:
        return {"base64": base64.b64encode(value[:max_bytes]).decode(), "truncated": True, "size_bytes": len(value)}
    # Looked at here, whatever the reason of the refusal says of it: spliced in unread, a value that is not JSON would
    # make an error record that is not JSON.
    if value.lstrip(b" \t\r\n").startswith(b"{") and is_json(value):
        return msgspec.Raw(value)
    return {"base64": base64.b64encode(value).decode()}
