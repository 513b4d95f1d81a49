"""Bad records -> the error topic (the contract, section 3): one queue, one publisher.

A chunk with a bad record can only be committed when the broker has the error record, so this tries until it has.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import mode
import msgspec
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from faust.exceptions import ProducerSendError

from stream_cache.errors import BadRecord
from stream_cache.metrics import Metrics
from stream_cache.readings.reading import Record
from stream_cache.readings.rejection import ErrorRecord, Rejection
from stream_cache.waiting import WaitingLog

#: Sends one record, and returns what is done when the broker has it: (key, value, headers) -> awaitable.
Send = Callable[[bytes | None, bytes, list[tuple[str, bytes]]], Awaitable[Awaitable[Any]]]

#: Error records that are sent together, and so the largest batch. Some 150 of the usual ones: encoding them holds the
#: event loop for a few milliseconds.
_GROUP_MAX_BYTES = 64 * 1024
_RETRY_S = 1.0
#: A broker that has not answered for so long is worth a word, though the client still waits for it.
_SLOW_S = 3.0
_SAY_EVERY_S = 60.0


class _Batch(msgspec.Struct):
    """Bad records that were handed over together."""

    left_count: int
    is_published: asyncio.Future[None]


class _Queued(msgspec.Struct):
    """A bad record that waits for the broker; what is sent of it shrinks where it can't be sent whole."""

    rejection: Rejection
    batch: _Batch
    whole_max_bytes: int
    original_max_bytes: int
    has_request_id: bool = True

    def cut(self, sent_bytes: int) -> bool:
        """Leave out more of the record. Returns: False when nothing was left that could be, and it is whole again."""
        if self.original_max_bytes:
            self.original_max_bytes = min(self.original_max_bytes, sent_bytes) // 4
        elif self.has_request_id and self.rejection.request_id is not None:
            self.has_request_id = False
        else:  # so it was not the record's size: the topic takes nothing at all
            self.original_max_bytes, self.has_request_id = self.whole_max_bytes, True
            return False
        return True


class ErrorTopic(mode.Service):
    """Publishes bad records to the error topic in the order they come, each until the broker has it.

    `trouble` says why the topic refuses at the moment, None when it doesn't: readiness shows it. The log has how many
    were published, at once and then once a minute: a flood doesn't drown it.

    The queue is bounded by who fills it: what is not published is not acked, and `Flusher.wait_for_room` bounds what
    is not acked, in records and in bytes.

    Args:
        send: sends one record to the error topic.
        original_max_bytes: the most that an error record holds of the original.
    """

    def __init__(
        self,
        send: Send,
        *,
        source_topic: str,
        error_topic: str,
        original_max_bytes: int,
        metrics: Metrics,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._send, self._source_topic, self._error_topic = send, source_topic, error_topic
        self._original_max_bytes, self._metrics = original_max_bytes, metrics
        self._queue: deque[_Queued] = deque()
        self._has_queued = asyncio.Event()
        self._group_max_bytes = _GROUP_MAX_BYTES
        self._waiting = WaitingLog(self.logger)
        self._published_unsaid: Counter[str] = Counter()
        self._next_line: asyncio.TimerHandle | None = None
        self.trouble: str | None = None

    @property
    def is_publishing(self) -> bool:
        """Whether error records are on their way, or wait for the topic."""
        return bool(self._queue)

    def publish(self, refused: Sequence[tuple[Record, BadRecord]]) -> asyncio.Future[None]:
        """Queue error records, one at least. The future is done when the broker has all of them; it never fails.

        It is cancelled when the worker stops first: the bad records are not published, and so not to be committed.
        """
        batch = _Batch(len(refused), asyncio.get_running_loop().create_future())
        for record, bad in refused:
            max_bytes = self._original_max_bytes
            self._queue.append(_Queued(Rejection.of(record, bad), batch, max_bytes, max_bytes))
        self._has_queued.set()
        return batch.is_published

    async def on_stop(self) -> None:
        """Let go of what is not published, and say in the log what was not said yet."""
        for queued in self._queue:
            queued.batch.is_published.cancel()
        if self._next_line:
            self._next_line.cancel()
            self._say_how_many()

    @mode.Service.task
    async def _publish_queued(self) -> None:
        while not self.should_stop:
            await self._has_queued.wait()
            group = self._next_group()
            slow = self.loop.call_later(_SLOW_S, self._note_trouble, f"has not answered for {_SLOW_S:.0f} s")
            try:
                answers = await self._send_group(group)
            finally:
                slow.cancel()
            errors = [_cause(answer) for answer in answers if isinstance(answer, BaseException)]
            self._dequeue([not isinstance(answer, BaseException) for answer in answers])
            if any(type(error) is KafkaError for error in errors):
                raise errors[0]  # aiokafka raises the bare class when its sender has died, which only a restart cures
            if not errors:
                self.trouble = None
                self._waiting.end(f"the error topic {self._error_topic!r} takes bad records again")
                self._group_max_bytes = min(_GROUP_MAX_BYTES, self._group_max_bytes + self._group_max_bytes // 8 + 1)
            elif not self._make_smaller(group, errors[0]):
                self._metrics.publishing_failed()
                self._note_trouble(_describe(errors[0], group[0].size_bytes))
                await self.sleep(_RETRY_S)

    def _next_group(self) -> list[ErrorRecord]:
        """Encode the head of the queue: one record at least, and no more than a batch may hold at the moment."""
        group: list[ErrorRecord] = []
        size_bytes = 0
        for queued in self._queue:
            error_record = queued.rejection.encode(
                self._source_topic, queued.original_max_bytes, has_request_id=queued.has_request_id
            )
            size_bytes += error_record.size_bytes
            if group and size_bytes > self._group_max_bytes:
                break
            group.append(error_record)
        return group

    async def _send_group(self, group: Sequence[ErrorRecord]) -> list[BaseException | None]:
        """Send, and wait for the answers. Returns: why a record is not published, None for one that is."""
        answers: list[Awaitable[Any]] = []
        refusal: Exception | None = None
        try:
            for error_record in group:
                answers.append(await self._send(*error_record))  # noqa: PERF401 - those before an error count
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said and tried again
            refusal = error  # the others would meet the same: with a topic that is missing, 10 s later each
        answered = await asyncio.gather(*answers, return_exceptions=True)
        return [*answered, *[refusal] * (len(group) - len(answered))]

    def _dequeue(self, are_published: Sequence[bool]) -> None:
        """Take what is published from the head of the queue, and let its batch know."""
        head = list(islice(self._queue, len(are_published)))
        for queued, is_published in zip(head, are_published, strict=True):
            self._queue.popleft()
            if is_published:
                self._published_unsaid[queued.rejection.kind] += 1
                queued.batch.left_count -= 1
                if not queued.batch.left_count and not queued.batch.is_published.done():
                    queued.batch.is_published.set_result(None)
        left = [queued for queued, is_published in zip(head, are_published, strict=True) if not is_published]
        self._queue.extendleft(reversed(left))
        if not self._queue:
            self._has_queued.clear()
        if self._next_line is None:
            self._say_how_many()

    def _make_smaller(self, group: Sequence[ErrorRecord], error: BaseException) -> bool:
        """Send less at once from now on. Returns: whether that may be all it takes.

        A broker refuses a batch for its size, however small its records. So only one that is refused by itself is cut.
        Other errors may be about the size too: a broker closes the connection on a request beyond its
        socket.request.max.bytes.
        """
        is_too_large = isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)
        if len(group) > 1:
            self._group_max_bytes = sum([error_record.size_bytes for error_record in group]) // 2
            return is_too_large
        # Better published in part than never.
        return is_too_large and self._queue[0].cut(group[0].size_bytes)

    def _note_trouble(self, what: str) -> None:
        self.trouble = f"{self._error_topic!r} (KAFKA_ERROR_TOPIC) {what}"
        self._waiting.wait(
            f"{self.trouble}; {len(self._queue)} bad records wait, tried again every {_RETRY_S:.0f} s; nothing is "
            "lost: their offsets are not committed before they are published"
        )

    def _say_how_many(self) -> None:
        """Say how many were published since the last such line, and that again after a while."""
        self._next_line = None
        if self._published_unsaid:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._published_unsaid.most_common())
            count = self._published_unsaid.total()
            self.logger.warning("%d bad records were published to the error topic: %s", count, kinds)
            self._published_unsaid.clear()
            self._next_line = self.loop.call_later(_SAY_EVERY_S, self._say_how_many)


def _cause(error: BaseException) -> BaseException:
    """Return what the Kafka client raised, which Faust may have wrapped."""
    return error.__cause__ if isinstance(error, ProducerSendError) and error.__cause__ else error


def _describe(error: BaseException, sent_bytes: int) -> str:
    match error:
        case UnknownTopicOrPartitionError():
            return "does not exist: create it"
        case TopicAuthorizationFailedError():
            return "may not be written to: grant WRITE on it"
        case MessageSizeTooLargeError() | RecordListTooLargeError():
            return f"refuses even records of {sent_bytes} bytes: raise its max.message.bytes"
    return f"refuses: {type(error).__name__}: {error}"
