"""Watches Kafka from outside the consumer: does it answer, are the topics there and ours to use, how far is the lag.

The consumer's client says none of this, or only in its log. Lives in the main loop, from before Faust asks for Kafka.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import mode
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from stream_cache.errors import KafkaRefused, KafkaUnavailable
from stream_cache.kafka.client import EARLIEST, LATEST, READ_COMMITTED, READ_UNCOMMITTED, KafkaClient, Topic
from stream_cache.kafka.membership import OK, UNKNOWN, Membership
from stream_cache.settings import KafkaSettings
from stream_cache.waiting import WaitingLog

#: Kafka counts as away after so long without an answer (the contract, section 4).
_AWAY_AFTER_S = 30.0
_ASK_EVERY_S = 5.0
#: How soon another assignment is noticed: the lag is then of other partitions.
_LOOK_EVERY_S = 0.25
# Kafka's AclOperation, by its code in the protocol.
_READ, _WRITE = 3, 4
_logger = mode.get_logger(__name__)


class _Use(NamedTuple):
    """A topic, the setting that names it, and what must be allowed."""

    name: str
    setting: str
    operation: int
    right: str


class Progress(NamedTuple):
    """Where partitions begin and end, and how far the group has committed them; absent where it has not."""

    begins: Mapping[int, int]
    ends: Mapping[int, int]
    committed: Mapping[int, int]

    @property
    def lag(self) -> int:
        """How many records are not yet committed."""
        return self.left_until(self.ends)

    @property
    def is_at_beginning(self) -> bool:
        """Whether the group has committed nothing but, at most, where its partitions begin."""
        return all(self.committed.get(tp, begin) <= begin for tp, begin in self.begins.items())

    def left_until(self, goal: Mapping[int, int]) -> int:
        """Return how many records lie between what is committed and these offsets."""
        read = {tp: self.committed.get(tp, self.begins.get(tp, 0)) for tp in self.ends}
        return sum(max(0, min(goal[tp], end) - read[tp]) for tp, end in self.ends.items() if tp in goal)


class BrokerWatch(mode.Service):
    """Asks Kafka every few seconds. Each check is "ok", "unknown", or says what is wrong and what to do."""

    def __init__(self, client: KafkaClient, membership: Membership, settings: KafkaSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._client, self._membership = client, membership
        self._metadata_max_age_s = settings.metadata_max_age_s
        self._source = _Use(settings.source_topic, "KAFKA_VALIDATED_DATA_TOPIC", _READ, "READ")
        self._errors = _Use(settings.error_topic, "KAFKA_ERROR_TOPIC", _WRITE, "WRITE")
        self._topics: dict[str, Topic] = {}
        self._looked_up_at = self._answered_at = -math.inf
        self._began_at = time.monotonic()
        self._failure = "it has not been asked yet"
        self._lag = 0
        self._asking = asyncio.Lock()
        self._waiting_for_kafka = WaitingLog(_logger)
        self._waiting_for = {use: WaitingLog(_logger) for use in (self._source, self._errors)}

    @property
    def kafka(self) -> str:
        """Whether Kafka answers."""
        silent_s = time.monotonic() - max(self._answered_at, self._began_at)
        if self._answered_at > -math.inf and silent_s <= _AWAY_AFTER_S:
            return OK
        return f"no answer for {silent_s:.0f} s: {self._failure}"

    @property
    def source_topic(self) -> str:
        """Whether the source topic is there and may be read."""
        return self._check(self._source) if self.kafka == OK else UNKNOWN

    @property
    def error_topic(self) -> str:
        """Whether the error topic is there and may be written."""
        return self._check(self._errors) if self.kafka == OK else UNKNOWN

    def lag(self) -> int:
        """Return how many records of the assigned partitions are not yet committed, as of Kafka's last answer."""
        return self._lag

    async def progress(self) -> Progress:
        """Ask how far the group has come with the whole source topic. Raises: KafkaUnavailable."""
        async with self._asking:
            await self._look_topics_up()
            leaders = self._topics[self._source.name].leaders
            if not leaders:
                raise KafkaRefused(self._check(self._source))
            progress = await self._progress(leaders, READ_COMMITTED)
            begins = await self._client.offsets(self._source.name, leaders, EARLIEST, READ_COMMITTED)
            return progress._replace(begins=begins)

    async def records_to_read(self) -> int:
        """Ask how many records of our partitions can be read and are not committed. Raises: KafkaUnavailable."""
        async with self._asking:
            return (await self._progress(self._assigned_leaders(), READ_COMMITTED)).lag

    async def on_stop(self) -> None:
        """Close the connections."""
        await self._client.close()

    @mode.Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            due_at = time.monotonic() + min(_ASK_EVERY_S, self._metadata_max_age_s)
            assigned = self._membership.assigned_partitions()
            async with self._asking:
                await self._look(assigned)
            while time.monotonic() < due_at and assigned == self._membership.assigned_partitions():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self, assigned: frozenset[int]) -> None:
        try:
            is_known = OK == self._check(self._source) == self._check(self._errors)
            is_fresh = time.monotonic() - self._looked_up_at < self._metadata_max_age_s
            if not (assigned and is_known and is_fresh):
                await self._look_topics_up()
            await self._look_at_lag()
        except KafkaUnavailable as error:
            self._looked_up_at = -math.inf
            self._failure = str(error)
            self._waiting_for_kafka.wait(f"waiting for Kafka: {error}; nothing is lost, lookups go on")
        else:
            self._answered_at = time.monotonic()
            self._waiting_for_kafka.end("Kafka answers")

    async def _look_topics_up(self) -> None:
        self._topics = await self._client.topics((self._source.name, self._errors.name))
        self._looked_up_at = time.monotonic()
        for use in (self._source, self._errors):
            check = self._check(use)
            if check == OK:
                count = len(self._topics[use.name].leaders)
                self._waiting_for[use].end(f"{use.name!r} ({use.setting}) is there, with {count} partitions")
            else:
                self._waiting_for[use].wait(check)

    async def _look_at_lag(self) -> None:
        """In a rebalance the last figure stays: what is being handed over is not caught up with."""
        if self._membership.is_rebalancing:
            return
        try:
            self._lag = (await self._progress(self._assigned_leaders(), READ_UNCOMMITTED)).lag
        except KafkaRefused:
            self._looked_up_at = -math.inf  # a partition's leader may have moved

    def _assigned_leaders(self) -> dict[int, int]:
        topic = self._topics.get(self._source.name)
        leaders = topic.leaders if topic else {}
        return {tp: leaders[tp] for tp in self._membership.assigned_partitions() & leaders.keys()}

    async def _progress(self, leaders: Mapping[int, int], isolation: int) -> Progress:
        if not leaders:
            return Progress({}, {}, {})
        committed = await self._client.committed(self._source.name, leaders)
        # Beginnings matter only where nothing is committed.
        new = {tp: leader for tp, leader in leaders.items() if tp not in committed}
        begins = await self._client.offsets(self._source.name, new, EARLIEST, isolation) if new else {}
        ends = await self._client.offsets(self._source.name, leaders, LATEST, isolation)
        return Progress(begins, ends, committed)

    def _check(self, use: _Use) -> str:
        topic = self._topics.get(use.name)
        if topic is None:
            return UNKNOWN
        what = f"{use.name!r} ({use.setting})"
        if topic.error is UnknownTopicOrPartitionError:
            return f"{what} does not exist: create it"
        if topic.error is TopicAuthorizationFailedError or not topic.allows(use.operation):
            return f"{what} is not allowed: grant {use.right} on this topic to the service's user"
        if topic.error is not None:
            return f"{what} can't be used: {topic.error.__name__}"
        leaderless = sum(leader == -1 for leader in topic.leaders.values())
        return f"{what}: {leaderless} partitions have no leader, their brokers are away" if leaderless else OK
