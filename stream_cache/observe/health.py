"""Probes: can the process do its job at all, and does it do it now; and the watchdog of a consumer that stalls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import mode

from stream_cache.errors import ConsumerStalled, KafkaUnavailable, StoreUnavailable
from stream_cache.kafka.broker_watch import BrokerWatch
from stream_cache.kafka.error_topic import ErrorTopic
from stream_cache.kafka.membership import OK, UNKNOWN, Membership
from stream_cache.observe.completeness import StateGuard
from stream_cache.pipeline.flush import Flusher
from stream_cache.settings import ProcessSettings
from stream_cache.store.store import Store
from stream_cache.waiting import WaitingLog

_CHECK_EVERY_S = 1.0
#: A group takes some seconds to settle.
_JOINING_IS_SAID_AFTER_S = 15.0
_logger = mode.get_logger(__name__)

Checks = Mapping[str, str]


class Health(mode.Service):
    """What the health views answer. Lives: watches the consumer, which in this ecosystem may stall in silence.

    Stalled is: the source topic has records beyond what is committed, the broker answers, nothing waits for Redis, the
    error topic or a permission, and nothing has been taken or committed for STALL_TIMEOUT_S. `/health/live` says 503
    then; after STALL_EXIT_S more the worker exits with 1, for its supervisor to start it anew.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        broker_watch: BrokerWatch,
        flusher: Flusher,
        error_topic: ErrorTopic,
        store: Store,
        state_guard: StateGuard,
        settings: ProcessSettings,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._membership, self._broker_watch = membership, broker_watch
        self._flusher, self._dead_letters = flusher, error_topic
        self._store, self._state_guard, self._settings = store, state_guard, settings
        self._stalled_since: float | None = None
        self._progress: object = None
        self._progress_at = self._settled_at = time.monotonic()
        self._waiting_for_group = WaitingLog(_logger)

    def liveness(self) -> Checks:
        """Return what makes a restart the best help, by check; empty when all is well."""
        if self._stalled_since is None:
            return {}
        seconds = time.monotonic() - self._progress_at
        return {"consumer": f"stalled: there are records to read, and none was taken or committed for {seconds:.0f} s"}

    async def checks(self) -> Checks:
        """Return each check: "ok", "unknown", or what is wrong. Takes up to 2.5 s when Redis doesn't answer."""
        try:
            await self._store.ping()
        except StoreUnavailable as error:
            redis, unless_known = str(error), UNKNOWN
        else:
            redis = unless_known = OK
        error_topic = self._broker_watch.error_topic
        if error_topic in (OK, UNKNOWN):
            error_topic = self._dead_letters.trouble or error_topic
        return {
            "kafka": self._broker_watch.kafka,
            "group": self._membership.state,
            "source_topic": self._broker_watch.source_topic,
            "error_topic": error_topic,
            "redis": redis,
            "flush": self._flusher.trouble or unless_known,
            "state": self._state_guard.status if redis == OK else UNKNOWN,
        }

    @staticmethod
    def is_ready(checks: Checks) -> bool:
        """Tell whether lookups are answered: they show what Redis holds, whatever else is the matter."""
        return checks["redis"] == OK

    def is_taking_readings(self, checks: Checks) -> bool:
        """Tell whether readings are taken in. That some were lost from Redis, or are yet to be read, stops nobody."""
        return self._state_guard.is_initialised and all(
            found == OK for check, found in checks.items() if check != "state"
        )

    @mode.Service.task
    async def _watch_consumer(self) -> None:
        while not self.should_stop:
            await self.sleep(_CHECK_EVERY_S)
            if self._membership.has_died:
                await self.crash(ConsumerStalled("the Kafka client has left the group for good; its log says why"))
            self._membership.check()
            self._say_what_the_group_lacks()
            await self._check_progress()

    def _say_what_the_group_lacks(self) -> None:
        state = self._membership.state
        if state == OK:
            self._settled_at = time.monotonic()
            self._waiting_for_group.end("the group is joined")
        elif self._membership.refusal:
            self._waiting_for_group.wait(f"waiting to be let in: {state}; lookups go on")
        elif time.monotonic() - self._settled_at > _JOINING_IS_SAID_AFTER_S and self._broker_watch.kafka == OK:
            group = self._membership.group
            self._waiting_for_group.wait(f"waiting for the group {group!r} (KAFKA_CONSUMER_GROUP_ID): {state}")

    async def _check_progress(self) -> None:
        progress = (self._flusher.taken_count, self._flusher.unacked_count, self._membership.committed_offsets())
        is_waiting = (
            self._flusher.is_putting
            or self._dead_letters.is_publishing
            or self._state_guard.is_waiting
            or self._membership.refusal
            or self._broker_watch.source_topic != OK
        )
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
        """Return how many committed records of our partitions there are to read; 0 when Kafka doesn't say."""
        try:
            return await self._broker_watch.records_to_read()
        except KafkaUnavailable as error:
            self.log.info("the broker does not say where the topic ends: %s", error)
            return 0
