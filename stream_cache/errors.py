"""Every exception of the package, as one tree.

StreamCacheError
 +-- WrongSetting        the environment asks for something that can't be
 +-- BadRecord           a record that the contract refuses; told to ``iot_errors``
 +-- StoreUnavailable    Redis didn't answer, or refuses; the call may be repeated
 +-- UnflushedReadings   the worker had to stop before all it took was in Redis
 +-- AddressRefused      the worker can't listen where WEB_BIND and WEB_PORT say
 +-- ConsumerStalled     nothing was read for long, though there is something to read
"""

from __future__ import annotations


class StreamCacheError(Exception):
    """Anything that this package raises on purpose."""


class WrongSetting(StreamCacheError):
    """A variable of the environment holds what it may not hold.

    The text never shows a secret: the caller leaves ``held`` out then.
    """

    def __init__(self, variable: str, held: str | None, may_hold: str) -> None:
        self.variable = variable
        shown = "a wrong value (not shown)" if held is None else repr(held)
        super().__init__(f"wrong setting: {variable} holds {shown}; it may hold {may_hold}")


class BadRecord(StreamCacheError):
    """A record that is refused, with the reason in words that a person understands.

    Attributes:
        kind: short name of the reason, goes into the header ``error.type``.
        reason: which field is wrong and why, goes into ``error``.
        request_id: of the record, None where it can't be read.
        is_object: whether the record's value is a JSON object at all.
    """

    def __init__(self, kind: str, reason: str, request_id: str | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.request_id = request_id
        self.is_object = kind not in {"not_json", "not_an_object", "bad_key"}
        super().__init__(reason)


class StoreUnavailable(StreamCacheError):
    """Redis can't be reached or refuses now. Nothing is lost: the same call again is harmless."""


class UnflushedReadings(StreamCacheError):
    """The worker stops with readings that are not in Redis: uncommitted, so the next worker reads them again."""


class AddressRefused(StreamCacheError):
    """The system lets nobody, or not us, listen at this address and port."""


class ConsumerStalled(StreamCacheError):
    """The consumer reads nothing, though the broker has records for it. A restart is the cure."""
