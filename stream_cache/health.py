"""Probes: can the process do its job at all, and does it do it now; and the watchdog of a consumer that stalls."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import aiokafka
import aiokafka.errors
import mode

from stream_cache.dead_letters import DeadLetters
from stream_cache.errors import ConsumerStalled, StoreUnavailable
from stream_cache.flush import Flusher
from stream_cache.membership import Membership
from stream_cache.settings import Settings
from stream_cache.state import StateGuard
from stream_cache.store import Store

_CHECK_EVERY_S = 1.0
_PROBE_TIMEOUT_S = 5.0
_REMIND_EVERY_S = 60.0


class Health(mode.Service):
    """What the health views answer. Lives: watches the consumer, which in this ecosystem may stall in silence.

    Stalled is: the source topic has records beyond what is committed, the broker answers, nothing waits for Redis or
    for the error topic, and nothing has been taken or committed for STALL_TIMEOUT_S. `/health/live` says 503 then;
    after STALL_EXIT_S more the worker exits with 1, for its supervisor to start it anew.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        flusher: Flusher,
        dead_letters: DeadLetters,
        store: Store,
        state_guard: StateGuard,
        settings: Settings,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._membership, self._flusher, self._dead_letters = membership, flusher, dead_letters
        self._store, self._state_guard, self._settings = store, state_guard, settings
        self._stalled_since: float | None = None
        self._progress: object = None
        self._progress_at = time.monotonic()
        self._missing_told_at = -math.inf

    def liveness(self) -> dict[str, str]:
        """Return what makes a restart the best help, by check; empty when all is well."""
        if self._stalled_since is None:
            return {}
        seconds = time.monotonic() - self._progress_at
        return {"consumer": f"stalled: there are records to read, and none was taken or committed for {seconds:.0f} s"}

    async def readiness(self) -> dict[str, str]:
        """Return each check's state: "ok", or what is the matter. Takes up to 2.5 s when Redis doesn't answer."""
        try:
            await self._store.ping()
        except StoreUnavailable as error:
            redis = str(error)
        else:
            redis = "ok"
        return {
            "kafka": self._membership.state,
            "redis": redis,
            "flush": self._flusher.trouble or "ok",
            "error_topic": self._dead_letters.trouble or "ok",
            "state": self._state_guard.finding,
        }

    @mode.Service.task
    async def _watch_consumer(self) -> None:
        while not self.should_stop:
            await self.sleep(_CHECK_EVERY_S)
            self._look_for_source_topic()
            if self._membership.has_died:
                await self.crash(ConsumerStalled("the Kafka client has left the group for good; its log says why"))
            await self._check_progress()

    def _look_for_source_topic(self) -> None:
        """Say in the log that the source topic is missing, once in a while, and when it has come."""
        topic, count = self._membership.topic, self._membership.partition_count()
        is_missing = count is None and self._membership.state == "ok"  # before, nobody has asked for it
        if is_missing and time.monotonic() - self._missing_told_at > _REMIND_EVERY_S:
            self._missing_told_at = time.monotonic()
            self.log.warning("waiting for the source topic %r, which does not exist yet: create it", topic)
        elif count is not None and self._missing_told_at != -math.inf:
            self._missing_told_at = -math.inf
            self.log.info("the source topic %r is there, with %d partitions", topic, count)

    async def _check_progress(self) -> None:
        progress = (self._flusher.taken_count, self._flusher.unacked_count, self._membership.committed_offsets())
        is_waiting = self._flusher.is_putting or self._dead_letters.is_telling or self._state_guard.is_waiting_for_redis
        if progress != self._progress or is_waiting:
            self._note_progress(progress)
            return
        silent_s = time.monotonic() - self._progress_at
        if silent_s < self._settings.stall_timeout_s:
            return
        lag = await self._lag_by_the_broker()
        if not lag:
            self._note_progress(progress)
        elif self._stalled_since is None:
            self._stalled_since = time.monotonic()
            self.log.error(
                "the consumer has stalled: %d records to read, none taken or committed for %.0f s; taken so far %d, "
                "unacked %d, group: %s, committed: %s; /health/live says 503, exit in %.0f s",
                lag,
                silent_s,
                self._flusher.taken_count,
                self._flusher.unacked_count,
                self._membership.state,
                self._membership.committed_offsets(),
                self._settings.stall_exit_s,
            )
        elif time.monotonic() - self._stalled_since > self._settings.stall_exit_s:
            await self.crash(ConsumerStalled(f"{lag} records to read, and none was taken for {silent_s:.0f} s"))

    def _note_progress(self, progress: object) -> None:
        if self._stalled_since is not None:
            self.log.info("the consumer goes on")
        self._progress, self._progress_at, self._stalled_since = progress, time.monotonic(), None

    async def _lag_by_the_broker(self) -> int:
        """Ask the broker, over a connection of its own: the consumer's may be what stalls. 0 when it is away."""
        committed = self._membership.committed_offsets()
        probe = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap_servers, isolation_level="read_committed"
        )
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await probe.start()
                ends = await probe.end_offsets(committed)
                begins = await probe.beginning_offsets(committed)
        except (aiokafka.errors.KafkaError, OSError, TimeoutError) as error:
            self.log.info("the broker does not say where the topic ends: %s: %s", type(error).__name__, error)
            return 0
        finally:
            await probe.stop()
        return sum(max(0, end - (committed[tp] or begins[tp])) for tp, end in ends.items())
