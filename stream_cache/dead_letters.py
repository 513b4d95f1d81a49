"""Bad records -> the error topic (the contract, section 3).

A chunk with a bad record can only be committed when the broker has the error record, so this tries until it has.
"""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import mode
import msgspec
from aiokafka.errors import MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from stream_cache.errors import BadRecord
from stream_cache.metrics import Metrics
from stream_cache.models import SourceRecord, format_time, json_text, now

#: Sends one record, and returns what is done when the broker has it: (key, value, headers) -> awaitable.
Send = Callable[[bytes | None, bytes, list[tuple[str, bytes]]], Awaitable[Awaitable[Any]]]

_SERVICE = "cache_service"
_RETRY_S = 1.0
_SAY_EVERY_S, _WARN_EVERY_S = 60.0, 10.0
_logger = mode.get_logger(__name__)


class DeadLetters:
    """Tells bad records to the error topic, each until the broker has it.

    `trouble` says why the topic refuses at the moment, None when it doesn't: readiness shows it. The log has how many
    were told, at once and then once a minute: a flood doesn't drown it.
    """

    def __init__(self, send: Send, source_topic: str, original_max_bytes: int, metrics: Metrics) -> None:
        self._send, self._source_topic, self._original_max_bytes = send, source_topic, original_max_bytes
        self._metrics = metrics
        self._telling: set[asyncio.Task[None]] = set()
        # aiokafka wakes everyone who waits for room in a batch whenever one is sent: with a flood that is quadratic.
        self._sending = asyncio.Lock()
        self._told_unsaid: Counter[str] = Counter()
        self._next_line: asyncio.TimerHandle | None = None
        self._untold_count = 0
        self._warned_at = -math.inf
        self.trouble: str | None = None

    @property
    def is_telling(self) -> bool:
        """Whether error records are on their way, or wait for the topic."""
        return bool(self._telling)

    def tell(self, refused: Sequence[tuple[SourceRecord, BadRecord]]) -> asyncio.Future[None]:
        """Begin to send the error records. The future is done when the broker has all of them; it is never failed."""
        task = asyncio.create_task(self._tell_all(refused))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task

    def close(self) -> None:
        """Say in the log what was not said yet."""
        if self._next_line:
            self._next_line.cancel()
            self._say_how_many()

    async def _tell_all(self, refused: Sequence[tuple[SourceRecord, BadRecord]]) -> None:
        left = list(refused)
        self._untold_count += len(left)
        while left:
            are_told = await asyncio.gather(*(self._is_told(record, bad) for record, bad in left))
            self._note_told([bad.kind for (_, bad), is_told in zip(left, are_told, strict=True) if is_told])
            left = [item for item, is_told in zip(left, are_told, strict=True) if not is_told]
            if left:
                await asyncio.sleep(_RETRY_S)
            else:
                self.trouble = None

    async def _is_told(self, record: SourceRecord, bad: BadRecord) -> bool:
        try:
            await self._tell(record, bad)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said and tried again
            # Said now, not when all have been tried: a topic that is missing lets each wait for 10 s.
            self.trouble = f"{type(error).__name__}: {error}"
            self._metrics.telling_failed()
            self._say_that_they_wait()
            return False
        return True

    def _note_told(self, kinds: Sequence[str]) -> None:
        self._untold_count -= len(kinds)
        self._told_unsaid.update(kinds)
        if self._next_line is None:
            self._say_how_many()

    def _say_how_many(self) -> None:
        """Say how many were told since the last such line, and that again after a while."""
        self._next_line = None
        if self._told_unsaid:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._told_unsaid.most_common())
            _logger.warning("%d bad records were told to the error topic: %s", self._told_unsaid.total(), kinds)
            self._told_unsaid.clear()
            self._next_line = asyncio.get_running_loop().call_later(_SAY_EVERY_S, self._say_how_many)

    def _say_that_they_wait(self) -> None:
        """Say it once in a while for all chunks, each of which tries again by itself."""
        if time.monotonic() - self._warned_at < _WARN_EVERY_S:
            return
        self._warned_at = time.monotonic()
        _logger.warning(
            "%d bad records could not be told to the error topic, trying again in %.0f s; their offsets stay "
            "uncommitted: %s",
            self._untold_count,
            _RETRY_S,
            self.trouble,
        )

    async def _tell(self, record: SourceRecord, bad: BadRecord) -> None:
        headers = {
            "source.topic": self._source_topic,
            "source.partition": str(record.partition),
            "source.offset": str(record.offset),
            "source.timestamp": str(record.timestamp),
            "error.type": bad.kind,
        }
        request_id, max_bytes = bad.request_id, self._original_max_bytes
        while True:
            try:
                async with self._sending:  # built only now: all of a chunk's at once would take a lot of memory
                    value = {
                        "request_id": msgspec.Raw(json_text(request_id).encode()),
                        "timestamp": format_time(now()),
                        "service": _SERVICE,
                        "error": bad.reason,
                        "original_message": _original_message(record.value or b"", max_bytes, is_object=bad.is_object),
                    }
                    broker_has_it = await self._send(
                        None if request_id is None else request_id.encode(errors="backslashreplace"),
                        msgspec.json.encode(value),
                        [(name, text.encode()) for name, text in headers.items()],
                    )
                await broker_has_it
            except (MessageSizeTooLargeError, ProducerSendError) as error:
                if (max_bytes == 0 and request_id is None) or not _is_too_large(error):
                    raise
                # The topic takes less than ERROR_ORIGINAL_MAX_BYTES: better told in part than never.
                request_id = request_id if max_bytes else None
                max_bytes //= 4
            else:
                return


def _original_message(value: bytes, max_bytes: int, *, is_object: bool) -> Any:
    if len(value) > max_bytes:
        return {"base64": base64.b64encode(value[:max_bytes]).decode(), "truncated": True, "size_bytes": len(value)}
    return msgspec.Raw(value) if is_object and value else {"base64": base64.b64encode(value).decode()}


def _is_too_large(error: Exception) -> bool:
    return isinstance(error, MessageSizeTooLargeError) or isinstance(error.__cause__, MessageSizeTooLargeError)
