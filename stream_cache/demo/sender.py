"""Sends what the fleet reports to the source topic, at a rate, as the normalizer does: keyed, gzip, acks=all."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from stream_cache.demo.fleet import Fleet, Quality

#: What is due in a tick makes one batch per partition. The mock broker hands out one batch per partition and fetch, so
#: with shorter ticks a worker on a busy laptop would fall behind.
_TICK_S = 0.05
#: After a halt (a laptop's sleep, a broker that was away) no more than this is made up for.
_LONGEST_CATCH_UP_S = 0.25
_FLUSH_S = 1.0
QUIET = {"log_level": 2}
"""librdkafka's own log lines would break the live line: what goes wrong is shown there."""


class News(NamedTuple):
    """A reading that Redis has to show soon; `sent_at_s` is monotonic time."""

    device_id: str
    event_time: datetime
    sent_at_s: float


class Sender:
    """Sends a fleet's records while `send` runs, and counts.

    `acked_count` and `bad_count` (of those the bad ones) are records that the broker has; `trouble` says what is wrong
    with the broker at the moment, None when nothing is.
    """

    def __init__(self, fleet: Fleet, bootstrap: str, topic: str, rate: int) -> None:
        self._fleet, self._topic, self._rate = fleet, topic, rate
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "compression.type": "gzip",
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "message.timeout.ms": 30_000,
                "error_cb": self._failed,
                **QUIET,
            }
        )
        self._news: asyncio.Future[News] | None = None
        self.acked_count = 0
        self.bad_count = 0
        self.trouble: str | None = None

    async def send(self) -> None:
        """Send until cancelled."""
        due, last_s = 0.0, time.monotonic()
        try:
            while True:
                now_s = time.monotonic()
                due += min(now_s - last_s, _LONGEST_CATCH_UP_S) * self._rate
                last_s = now_s
                while due >= 1:
                    due -= self._send_report()
                self._producer.poll(0)
                await asyncio.sleep(_TICK_S)
        finally:
            self._producer.flush(_FLUSH_S)

    async def next_news(self) -> News:
        """Return the next reading that is sent and that Redis has to show."""
        self._news = asyncio.get_running_loop().create_future()
        return await self._news

    def _send_report(self) -> int:
        records = self._fleet.report(datetime.now(UTC))
        for record in records:
            delivered = self._bad_delivered if record.quality is Quality.BAD else self._delivered
            try:
                self._producer.produce(self._topic, record.value, record.key, on_delivery=delivered)
            except BufferError:  # the broker is away, and the queue is full
                return self._rate  # nothing more is due now
            if record.is_news and self._news is not None and not self._news.done():
                self._news.set_result(News(record.device_id, record.event_time, time.monotonic()))
        return len(records)

    def _delivered(self, error: KafkaError | None, _record: Message) -> None:
        if error is None:
            self.acked_count += 1
            self.trouble = None
        else:
            self._failed(error)

    def _bad_delivered(self, error: KafkaError | None, record: Message) -> None:
        self._delivered(error, record)
        self.bad_count += error is None

    def _failed(self, error: KafkaError) -> None:
        self.trouble = error.str()
