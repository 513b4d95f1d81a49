"""Wires everything together: `create_app(settings)`, and the app that `faust -A stream_cache.app worker` finds.

Kafka -> kafka/ (chunks) -> readings/ (decode) -> pipeline/ (window, flush) -> store/ -> Redis
HTTP  -> web/ -> store/ -> Redis
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import faust
import mode.loop
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types import StreamT

from stream_cache.errors import InvalidSetting, UnflushedReadings
from stream_cache.kafka.boot import BootOrder
from stream_cache.kafka.broker_wait import PatientProducer
from stream_cache.kafka.broker_watch import BrokerWatch
from stream_cache.kafka.chunks import Chunk, ChunkSchema
from stream_cache.kafka.client import KafkaClient
from stream_cache.kafka.error_topic import ErrorTopic
from stream_cache.kafka.membership import Membership
from stream_cache.kafka.near_misses import near_misses
from stream_cache.kafka.options import faust_options
from stream_cache.kafka.tables import latest_by_partition
from stream_cache.kafka.transport import ChunkTransport
from stream_cache.metrics import Metrics
from stream_cache.observe.completeness import StateGuard
from stream_cache.observe.health import Health
from stream_cache.pipeline.flush import Flusher
from stream_cache.pipeline.window import Window
from stream_cache.readings.decode import DecodedChunk, decode_chunk
from stream_cache.readings.reading import RawRecord
from stream_cache.settings import Settings
from stream_cache.store.pruner import Pruner
from stream_cache.store.store import Store
from stream_cache.web.routes import BLUEPRINTS
from stream_cache.web.server import WebServer

#: The contract gives a shutdown 10 s: SHUTDOWN_TIMEOUT_S, at most 8, for the flush; the rest is for the last steps that
#: wait for Kafka (see `ChunkTransport`).
_STOP_WITHIN_S, _LAST_STEPS = 9.0, 4


class StreamCache(faust.App):
    """The Faust app, and the parts it is made of."""

    BootStrategy = BootOrder

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings, self._near_misses = settings, near_misses(environ)
        super().__init__(settings.kafka.group_id, **faust_options(settings, environ))
        self.metrics = Metrics()
        self.store = Store(settings.redis)
        self.error_topic = ErrorTopic(
            self._send_error_record,
            source_topic=settings.kafka.source_topic,
            error_topic=settings.kafka.error_topic,
            original_max_bytes=settings.pipeline.error_original_max_bytes,
            metrics=self.metrics,
        )
        self.window = Window(latest_by_partition(self, settings.pipeline.flush_interval_s))
        self.flusher = Flusher(
            self.window,
            self.store,
            self.error_topic.publish,
            self.metrics,
            interval_s=settings.pipeline.flush_interval_s,
            max_unacked=settings.pipeline.max_unacked_readings,
        )
        self.pruner = Pruner(self.store, self.metrics, interval_s=settings.redis.prune_interval_s)
        self.membership = Membership(self, settings.kafka.source_topic, settings.kafka.group_id)
        kafka = KafkaClient(
            settings.kafka.bootstrap_servers,
            settings.kafka.group_id,
            lambda: credentials_to_aiokafka_auth(self.conf.broker_credentials),
        )
        self.broker_watch = BrokerWatch(kafka, self.membership, settings.kafka)
        self.state_guard = StateGuard(self.store, self.membership, self.broker_watch, settings)
        self.health = Health(
            membership=self.membership,
            broker_watch=self.broker_watch,
            flusher=self.flusher,
            error_topic=self.error_topic,
            store=self.store,
            state_guard=self.state_guard,
            settings=settings.process,
        )
        self.metrics.watch(
            lag=self.broker_watch.lag,
            window_devices=self.window.device_count,
            unacked=lambda: self.flusher.unacked_count,
        )
        self.agent(
            self.topic(settings.kafka.source_topic, schema=ChunkSchema()),
            name="latest_per_device",
            concurrency=1,  # chunks of a partition are taken in order
            supervisor_strategy=mode.CrashingSupervisor,  # a fault here is no record's: exit, nothing is lost
        )(self._keep_latest)
        for blueprint in BLUEPRINTS:
            self.web.blueprints.add("", blueprint)

    async def _keep_latest(self, stream: StreamT[Any]) -> None:
        """The agent: keeps the latest reading per device of what it takes, and acks nothing. The flusher does."""
        await self.state_guard.wait_until_initialised()
        async for event in cast("faust.Stream[Chunk]", stream).noack().events():
            await self.flusher.wait_for_room()
            chunk: Chunk = event.value
            content, chunk.content = chunk.content, None  # the event lives on until it is committed
            published = self._take_in(content, event.message.partition) if content else None
            self.flusher.take(
                event.ack, chunk.record_count, published, is_caught_up=chunk.is_caught_up, size_bytes=chunk.size_bytes
            )

    def _take_in(self, decoded: DecodedChunk, partition: int) -> asyncio.Future[None] | None:
        self.metrics.decoded(decoded)
        if decoded.latest.by_device:
            self.window.add(partition, decoded.latest)
        return self.error_topic.publish(decoded.bad) if decoded.bad else None

    def _decode(self, records: Sequence[RawRecord], partition: int) -> DecodedChunk:
        """Decode a chunk and find its latest of each device; in the consumer's thread, to hold the event loop less."""
        return decode_chunk(records, partition, self.settings.pipeline.max_clock_skew_s)

    async def _drain(self) -> None:
        is_flushed = await self.flusher.drain(self.settings.process.shutdown_timeout_s)
        if not is_flushed and self.should_stop:
            why = self.flusher.trouble or self.error_topic.trouble or "there was too little time"
            await self.crash(
                UnflushedReadings(
                    f"{self.flusher.unacked_count} records could not be flushed within "
                    f"{self.settings.process.shutdown_timeout_s:g} s (SHUTDOWN_TIMEOUT_S): {why}; they are not "
                    "committed, and are read again"
                )
            )

    async def _send_error_record(self, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> Any:
        return await self.producer.send(self.settings.kafka.error_topic, key, value, None, None, headers)

    async def on_first_start(self) -> None:
        """Start the parts that live. Faust makes a data directory here; we keep nothing on disk."""
        if self._near_misses:
            self.log.warning(self._near_misses)
        await self.add_runtime_dependency(self.broker_watch)
        await self.add_runtime_dependency(self.error_topic)  # before the flusher, so that it stops after it
        await self.add_runtime_dependency(self.flusher)
        await self.add_runtime_dependency(self.pruner)
        await self.add_runtime_dependency(self.state_guard)
        await self.add_runtime_dependency(self.health)

    async def on_shutdown(self) -> None:
        """Close Redis, last of all."""
        await self.store.close()
        await super().on_shutdown()

    def broker_address(self, node_id: object) -> str | None:
        """Return the address that a broker advertises, None when it is not known."""
        return cast("PatientProducer", self.producer).broker_address(node_id)

    def _new_transport(self) -> ChunkTransport:
        return ChunkTransport(
            self.conf.broker_consumer,
            self,
            poll_timeout_s=self.settings.kafka.poll_timeout_s,
            decode=self._decode,
            drain=self._drain,
            leave_within_s=(_STOP_WITHIN_S - self.settings.process.shutdown_timeout_s) / _LAST_STEPS,
        )

    def _new_web(self) -> WebServer:
        return WebServer(self, self.settings.web, self.metrics)


def create_app(environ: Mapping[str, str]) -> StreamCache:
    """Build the app that an environment asks for. Raises: InvalidSetting."""
    return StreamCache(Settings.from_env(environ), environ)


def _app_of_this_process() -> StreamCache:
    if importlib.util.find_spec("uvloop"):
        mode.loop.use("uvloop")
    try:
        return create_app(os.environ)
    except InvalidSetting as error:
        sys.exit(str(error))


app = _app_of_this_process()
