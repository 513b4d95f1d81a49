"""When to flush, how to retry, and what to ack afterwards.

The last step but the commit. A flush takes the window as it is, writes it to a `Sink` until that succeeds, and only
then acks the chunks it came from: a chunk's offset can be committed when all its good records are in the sink and all
its bad ones are published.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import mode
import msgspec

from stream_cache.errors import BadRecord, StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.pipeline.sink import Sink
from stream_cache.pipeline.window import Window
from stream_cache.readings.reading import Reading, Record

#: A worker that has caught up flushes at once, but not more often than this: even a small flush costs about 1 ms.
_MIN_GAP_S = 0.02
#: A window with so many devices is flushed before its end: waiting would merge little more, and while Redis takes these
#: in, the next ones are decoded.
_MANY_DEVICES = 20_000
#: Values of records taken but not acked, beyond which no more are taken, however few they are.
_MAX_UNACKED_BYTES = 128 * 2**20
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.05, 2.0


class _Taken(msgspec.Struct):
    """A chunk whose readings are in the window or in a flush."""

    ack: Callable[[], Any]
    record_count: int
    size_bytes: int
    published: list[asyncio.Future[None]]


class Flusher(mode.Service):
    """Flushes the window at its end; at once when the worker has caught up, or a rebalance or a shutdown begins.

    `trouble` says why the sink refuses at the moment, None when it doesn't: readiness shows it.

    Args:
        interval_s: the window's size, so the longest that a reading waits while Redis answers.
        max_unacked: records taken but not acked, beyond which `wait_for_room` waits: bounds the memory while Redis
            or the error topic is away.
        publish: sends refused records to the error topic; done when the broker has them.
    """

    def __init__(
        self,
        window: Window,
        sink: Sink,
        publish: Callable[[Sequence[tuple[Record, BadRecord]]], asyncio.Future[None]],
        metrics: Metrics,
        *,
        interval_s: float,
        max_unacked: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._window, self._sink, self._publish, self._metrics = window, sink, publish, metrics
        self._interval_s, self._max_unacked = interval_s, max_unacked
        self._taken: list[_Taken] = []
        self._unacked_count = self._unacked_bytes = 0
        self._taken_count = 0
        self._is_putting = False
        self.trouble: str | None = None
        self._has_taken = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._has_acked = asyncio.Event()
        self._last_flush_ended = 0.0

    @property
    def unacked_count(self) -> int:
        """Records taken from Kafka that are not yet safe to commit."""
        return self._unacked_count

    @property
    def taken_count(self) -> int:
        """Records taken from Kafka since the start."""
        return self._taken_count

    @property
    def is_putting(self) -> bool:
        """Whether a flush is on its way, or waits for the sink."""
        return self._is_putting

    async def wait_for_room(self) -> None:
        """Wait until what is unacked is below the limits of records and of bytes."""
        while self._unacked_count >= self._max_unacked or self._unacked_bytes >= _MAX_UNACKED_BYTES:
            self._is_urgent.set()
            self._has_acked.clear()
            await self._has_acked.wait()

    def take(
        self,
        ack: Callable[[], Any],
        record_count: int,
        published: asyncio.Future[None] | None,
        *,
        is_caught_up: bool,
        size_bytes: int = 0,
    ) -> None:
        """Note a chunk whose readings were added to the window; `published` is done when its bad records are."""
        self._taken.append(_Taken(ack, record_count, size_bytes, [published] if published else []))
        self._unacked_count += record_count
        self._unacked_bytes += size_bytes
        self._taken_count += record_count
        self._has_taken.set()
        if is_caught_up or self._window.device_count() >= _MANY_DEVICES:
            self._is_urgent.set()

    async def drain(self, timeout_s: float) -> bool:
        """Flush and ack all that has been taken. Returns: whether that was possible within the time.

        What wasn't is neither lost nor committed: it is read again by whoever gets the partition.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._taken or self._unacked_count:
                    self._is_urgent.set()  # again and again: what is taken meanwhile is flushed at once too
                    self._has_acked.clear()
                    await self._has_acked.wait()
        except TimeoutError:
            self.log.warning(
                "%d records could not be flushed within %.1f s; they stay uncommitted and are read again",
                self._unacked_count,
                timeout_s,
            )
            return False
        return True

    @mode.Service.task
    async def _flush_when_due(self) -> None:
        while not self.should_stop:
            await self._has_taken.wait()
            until_window_ends = self._interval_s - time.time() % self._interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(until_window_ends):
                    await self._is_urgent.wait()
                    if self._window.device_count() < _MANY_DEVICES:
                        await asyncio.sleep(self._last_flush_ended + _MIN_GAP_S - time.monotonic())
            await self._flush()

    async def _flush(self) -> None:
        taken, self._taken = self._taken, []
        latest = self._window.take()
        self._has_taken.clear()
        self._is_urgent.clear()
        events = list(latest.by_device.values())
        self._is_putting = True
        refused = await self._put_until_done(events) if events else ()
        self._is_putting = False
        self._last_flush_ended = time.monotonic()
        if refused:
            published = self._publish([(reading.record, bad) for reading, bad in refused])
            for chunk in taken:
                chunk.published.append(published)
        for chunk in taken:
            self._ack_when_published(chunk)

    async def _put_until_done(self, events: Sequence[Reading]) -> Sequence[tuple[Reading, BadRecord]]:
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                result = await self._sink.put_latest(events)
            except StoreUnavailable as error:
                self._metrics.flush_failed()
                self.trouble = str(error)
                wait_s = min(_RETRY_LONGEST_S, _RETRY_FIRST_S * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                attempt += 1
                await self.sleep(wait_s)
                if self.should_stop:  # a cancellation may have been swallowed below
                    raise asyncio.CancelledError from None
            else:
                self._metrics.flushed(time.monotonic() - began, result)
                self.trouble = None
                return result.refused

    def _ack_when_published(self, chunk: _Taken) -> None:
        done = [future for future in chunk.published if future.done()]
        if any(future.cancelled() for future in done):
            return  # the worker stops: uncommitted, the chunk is read again
        failures = [error for future in done if (error := future.exception())]
        if failures:  # never happens: its bad records are not published, and nobody publishes them any more
            self.add_future(self.crash(failures[0]))
        elif waiting := [future for future in chunk.published if not future.done()]:
            waiting[0].add_done_callback(lambda _published: self._ack_when_published(chunk))
        else:
            chunk.ack()
            self._unacked_count -= chunk.record_count
            self._unacked_bytes -= chunk.size_bytes
            self._has_acked.set()
