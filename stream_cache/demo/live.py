"""What is to be seen of the service from outside: one line a second.

Freshness is measured, not taken from the worker: readings are followed from the moment they are sent to the moment a
lookup in Redis shows them.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, TopicPartition

from stream_cache.demo.sender import QUIET, Sender
from stream_cache.errors import StoreUnavailable
from stream_cache.readings.times import format_time
from stream_cache.store.store import Store

_PROBE_EVERY_S, _PROBE_POLL_S, _PROBE_GIVE_UP_S = 0.1, 0.004, 30.0
_ERRORS_EVERY_S = 0.1
_REQUEST_S = 5.0
#: A probe that is out for longer than this is worth a word.
_LONG_S = 1.0

_T = TypeVar("_T")


class Part(NamedTuple):
    """A part of the live line, and what is left of it where the terminal is narrow."""

    text: str
    short: str


def fit(parts: Sequence[Part], width: int) -> str:
    """Return a line of no more than that many characters: whole, or in short, or the first parts of that."""
    line = ", ".join(part.text for part in parts)
    if len(line) <= width:
        return line
    shorts = [part.short.strip() for part in parts]
    while len(shorts) > 1 and len(", ".join(shorts)) > width:
        shorts.pop()
    return ", ".join(shorts)[:width]


LEGEND = """\
Once a second: readings sent (acknowledged by Kafka), devices in the index, milliseconds from sending a reading to
reading it in Redis (median and longest), bad readings published to the error topic / sent."""


def say(text: str = "") -> None:
    """Print at once, into a pipe too."""
    print(text, flush=True)


async def look_up(lookup: Coroutine[Any, Any, _T]) -> _T:
    """Await a call of the store in such a way that a cancel always arrives.

    With a socket timeout, redis-py sends through `asyncio.wait_for`, and that of Python 3.11 swallows a cancel that
    comes just as it ends: every tenth one here. Source: python/cpython#86296, mended in 3.12.
    """
    return await asyncio.shield(lookup)


class PublishedErrors:
    """Counts the records that come to the error topic from now on.

    Making it asks the broker, for up to some seconds. Raises: KafkaException when it doesn't answer.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        # The group is a formality: partitions are assigned by hand, and nothing is committed.
        config = {"bootstrap.servers": bootstrap, "group.id": "stream_cache_demo", "enable.auto.commit": False}
        self._consumer = Consumer({**config, "fetch.wait.max.ms": 100, **QUIET})
        partitions = self._consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions
        ends = [TopicPartition(topic, partition) for partition in partitions]
        for end in ends:
            _, end.offset = self._consumer.get_watermark_offsets(end, timeout=_REQUEST_S)
        self._consumer.assign(ends)
        self.count = 0

    async def follow(self) -> None:
        """Count until cancelled."""
        try:
            while True:
                self.count += sum(record.error() is None for record in self._consumer.consume(1000, timeout=0))
                await asyncio.sleep(_ERRORS_EVERY_S)
        finally:
            self._consumer.close()


class Freshness:
    """Follows one reading after the other from the sender into Redis."""

    def __init__(self, sender: Sender, store: Store) -> None:
        self._sender, self._store = sender, store
        self._out_since_s: float | None = None
        self._measured_ms: list[float] = []

    async def follow(self) -> None:
        """Measure until cancelled."""
        while True:
            news = await self._sender.next_news()
            self._out_since_s = news.sent_at_s
            event_time = format_time(news.event_time.replace(tzinfo=None))
            while time.monotonic() < news.sent_at_s + _PROBE_GIVE_UP_S:
                try:
                    device = await look_up(self._store.get(news.device_id))
                except StoreUnavailable:  # the line says so
                    device = None
                    await asyncio.sleep(_PROBE_EVERY_S)
                if device is not None and device.last_updated >= event_time:
                    self._measured_ms.append((time.monotonic() - news.sent_at_s) * 1000)
                    self._out_since_s = None
                    break
                await asyncio.sleep(_PROBE_POLL_S)
            await asyncio.sleep(_PROBE_EVERY_S)

    def take_summary(self) -> Part:
        """Say what was measured since the last call."""
        measured_ms, self._measured_ms = self._measured_ms, []
        out_s = time.monotonic() - self._out_since_s if self._out_since_s is not None else 0.0
        if out_s > _LONG_S:
            return Part(f"nothing new in Redis for {out_s:.0f} s: does a worker run?", f"nothing new for {out_s:.0f} s")
        if not measured_ms:
            return Part("fresh in   ? ms", "? ms")
        median_ms = f"{statistics.median(measured_ms):3.0f} ms"
        return Part(f"fresh in {median_ms} (max {max(measured_ms):3.0f})", median_ms)


async def show_live_line(sender: Sender, store: Store, published: PublishedErrors, freshness: Freshness) -> None:
    """Show one line a second until cancelled; in a terminal always the same one, so that what is above stays."""
    is_terminal = sys.stdout.isatty()
    shown_count, shown_at_s = sender.acked_count, time.monotonic()
    while True:
        await asyncio.sleep(1 - (time.monotonic() - shown_at_s) % 1)
        count, now_s = sender.acked_count, time.monotonic()
        rate = (count - shown_count) / (now_s - shown_at_s)
        shown_count, shown_at_s = count, now_s
        parts = [Part(f"{rate:5,.0f} readings/s", f"{rate:,.0f}/s")]
        try:
            device_count = (await look_up(store.list_devices(1, None))).total_count
        except StoreUnavailable as error:
            parts.append(Part(str(error), "Redis is away"))
        else:
            parts += [Part(f"{device_count:6,} devices", f"{device_count:,} devices"), freshness.take_summary()]
        if sender.trouble:
            parts.append(Part(f"Kafka: {sender.trouble}", "Kafka is away"))
        errors = f"{published.count:,}/{sender.bad_count:,}"
        parts.append(Part(f"rejected {errors}", f"errors {errors}"))
        if is_terminal:
            print(f"\r\x1b[2K{fit(parts, shutil.get_terminal_size().columns - 1)}", end="", flush=True)
        else:
            say(", ".join(part.text for part in parts))
