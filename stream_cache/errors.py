"""Every exception of the package, as one tree.

StreamCacheError
 +-- InvalidSetting      a variable of the environment holds something else than what is expected
 +-- BadRecord           a record that the contract refuses; published to ``iot_errors``
 +-- StoreUnavailable    Redis didn't answer, or refuses; the call may be repeated
 +-- AnswerTooLarge      what a request asks for is more than one answer may hold
 +-- UnflushedReadings   the worker had to stop before all it took was in Redis
 +-- KafkaUnavailable    Kafka can't be reached or doesn't answer; the question may be repeated
 |    +-- KafkaRefused   it answers, and refuses
 +-- AddressRefused      the worker can't listen where WEB_BIND and WEB_PORT say
 +-- ConsumerStalled     nothing was read for long, though there is something to read
 +-- UnreadableBatch     the source topic holds records that nobody can read
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_PASSWORD = re.compile(r"(?P<user>(?:\w[\w+.-]*://)?[^:@]*):.*@", re.DOTALL)


def hide_password(address: str) -> str:
    """Return an address without what stands between `user:` and `@` of it."""
    return _PASSWORD.sub(r"\g<user>:***@", address, count=1)


class StreamCacheError(Exception):
    """Anything that this package raises on purpose."""


class InvalidSetting(StreamCacheError):
    """A variable of the environment holds something else than what is expected.

    The text never shows a secret: the caller passes None as `held` then, and a password within an address is masked.
    """

    def __init__(self, variable: str, held: str | None, expected: str) -> None:
        self.variable = variable
        shown = " (value not shown)" if held is None else f"={hide_password(held)!r}"
        super().__init__(f"invalid setting {variable}{shown}: expected {expected}")


class BadRecord(StreamCacheError):
    """A record that is refused, with the reason in words that a person understands.

    Attributes:
        kind: short name of the reason, goes into the header ``error.type``.
        reason: which field is wrong and why, goes into ``error``.
        request_id: of the record, None where it can't be read.
        refused_at: when, naive and UTC, as all times here.
    """

    def __init__(self, kind: str, reason: str, request_id: str | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.request_id = request_id
        self.refused_at = datetime.now(UTC).replace(tzinfo=None)
        super().__init__(reason)


class StoreUnavailable(StreamCacheError):
    """Redis can't be reached or refuses now. Nothing is lost: the same call again is harmless."""


class AnswerTooLarge(StreamCacheError):
    """What a request asks for is more than one answer may hold. The same request again fails again."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"the answer would be larger than {max_bytes} bytes; ask for fewer devices at once")


class UnflushedReadings(StreamCacheError):
    """The worker stops with readings that are not in Redis: uncommitted, so the next worker reads them again."""


class KafkaUnavailable(StreamCacheError):
    """A question to Kafka has no answer. The text names the address and the reason."""


class KafkaRefused(KafkaUnavailable):
    """Kafka answers a question with an error: no permission, or something of it isn't there now."""


class AddressRefused(StreamCacheError):
    """The system lets nobody, or not us, listen at this address and port."""


class ConsumerStalled(StreamCacheError):
    """The consumer reads nothing, though the broker has records for it. A restart is the cure."""


class UnreadableBatch(StreamCacheError):
    """The source topic holds a batch of records that nobody can read: it is corrupt, or of a codec to come."""

    def __init__(self, topic: str, partition: int, offset: int, reason: Exception) -> None:
        super().__init__(
            f"topic {topic!r}, partition {partition}, offset {offset}: the batch of records there can't be read "
            f"({reason!r}); restore the partition, or set the group's offset behind that batch"
        )
