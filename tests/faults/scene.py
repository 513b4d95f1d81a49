"""A scene: topics, a Redis, workers, readings that keep coming, and somebody who watches. Tests cause the faults.

with Scene.of(topics, database, directory, partitions=4) as scene:
    scene.start_workers(2)
    with scene.fed(per_second=12_000):
        ...  # the fault
    scene.assert_nothing_lost()
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Self

import redis
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests import harness, oracle, readings
from tests.faults.ledger import Ledger
from tests.faults.watching import Moment, Sampler, look, told
from tests.harness import FAUST_WORKER, RedisDatabase, TopicNames, Worker, wait_until

#: A killed worker's partitions idle for that long.
SESSION_TIMEOUT_S = 3
_SHOWN = 5
_TRAILING_S = 5


class Scene:
    """What a test of faults consists of. `env` is added to every worker's environment."""

    def __init__(
        self,
        topics: TopicNames,
        database: RedisDatabase,
        directory: Path,
        *,
        partitions: int = 4,
        env: Mapping[str, str] | None = None,
        may_vanish: bool = False,
    ) -> None:
        self.topics, self.database, self.partitions = topics, database, partitions
        self._may_be_emptied = may_vanish
        self.ledger = Ledger(topics)
        self.sampler = Sampler(database, self.ledger, may_vanish=may_vanish)
        self.workers: list[Worker] = []
        self._directory = directory
        self._env = {
            **topics.env(),
            **database.env(),
            "KAFKA_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "KAFKA_METADATA_MAX_AGE_S": "2",
            **(env or {}),
        }
        self._moments: list[Moment] = []
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self.topics.create(self.partitions)
        self._exits.enter_context(self.sampler.running())
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            for worker in self.workers:
                if worker.is_running:
                    worker.kill()
        finally:
            self._exits.close()

    # ------------------------------------------------------------------------------------------------------- workers

    def add_worker(self, command: Sequence[str] = FAUST_WORKER, /, **env: str) -> Worker:
        """Make one more worker, and start it without waiting for it."""
        name = f"worker-{len(self.workers) + 1}"
        worker = Worker(self._directory, self._env | env, name=name, command=command)
        self.workers.append(worker)
        worker.start()
        return worker

    def start_workers(self, count: int = 1, /, **env: str) -> list[Worker]:
        """Add workers, and wait until each has joined."""
        added = [self.add_worker(**env) for _ in range(count)]
        for worker in added:
            worker.wait_ready()
        return added

    def reach_redis_at(self, port: int) -> None:
        """Let workers reach Redis at another port, through a proxy; the test itself goes the straight way."""
        self._env["REDIS_PORT"] = str(port)

    def _log_lines(self) -> list[str]:
        return [line for worker in self.workers for line in worker.log_text().splitlines()]

    def rebuild(self) -> None:
        """Do what an operator does to rebuild Redis from the topic: stop all, go to the earliest offset, start all."""
        for worker in self.workers:
            assert worker.terminate() == 0, worker.log_tail()
        _rewind(self.topics)
        self._moments.clear()
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.wait_ready()

    # ------------------------------------------------------------------------------------------------------ readings

    def drafts(self, seed: int, *, devices: int = 5_000, per_second: int = 12_000) -> Iterator[readings.Draft]:
        """Draw plain readings without end, from now on at that pace."""
        return readings.realistic(
            seed, 10**9, devices, partitions=self.partitions, base_ms=int(time.time() * 1000), per_second=per_second
        )

    @contextmanager
    def fed(self, *, per_second: int = 12_000, seed: int = 1, devices: int = 5_000) -> Iterator[None]:
        """Produce that many plain readings a second as long as the block lasts."""
        with self.fed_with(self.drafts(seed, devices=devices, per_second=per_second), per_second):
            yield

    @contextmanager
    def fed_with(self, drafts: Iterator[readings.Draft], per_second: int) -> Iterator[None]:
        """Produce these as long as the block lasts. Raises at its end: what stopped it."""
        stop = Event()
        failures: list[BaseException] = []

        def feed() -> None:
            try:
                paced = self._paced(drafts, per_second, stop)
                while not stop.is_set():
                    self.ledger.produce(itertools.islice(paced, per_second))
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failures.append(error)

        thread = Thread(target=feed, name="feeder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(120)
        if failures:
            raise failures[0]
        assert not thread.is_alive(), "the feeder hangs"

    def configure(self, topic: str, **config: str) -> None:
        """Set a topic's configuration; in a name `_` stands for a dot."""
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        admin = AdminClient({"bootstrap.servers": self.topics.bootstrap})
        for altered in admin.incremental_alter_configs([resource]).values():
            altered.result(10)

    @staticmethod
    def _paced(drafts: Iterator[readings.Draft], per_second: int, stop: Event) -> Iterator[readings.Draft]:
        """Hand the drafts on in time, in steps of 10 ms; what was missed while Kafka was away is not made up for."""
        step = max(1, per_second // 100)
        due_s = time.monotonic()
        while not stop.is_set():
            yield from itertools.islice(drafts, step)
            due_s = max(due_s + step / per_second, time.monotonic() - 1)
            stop.wait(max(0.0, due_s - time.monotonic()))

    # -------------------------------------------------------------------------------------------------- what is seen

    def look(self) -> None:
        """Keep this moment, to be judged at the end: was anything committed that isn't flushed?"""
        self._moments.append(look(self.topics, self.database, self.ledger))

    def committed(self) -> int:
        """Return the sum of the committed offsets."""
        return sum(harness.committed_offsets(self.topics.bootstrap, self.topics.group, self.topics.source).values())

    def lag(self) -> int:
        return harness.lag(self.topics.bootstrap, self.topics.group, self.topics.source)

    def wait_committed(self, count: int, timeout_s: float = 60) -> None:
        """Wait until that many more records are committed than now."""
        wanted = self.committed() + count
        wait_until(lambda: self.committed() >= wanted, timeout_s, f"{count} more records to be committed")

    def wait_logged(self, text: str, timeout_s: float = 30, *, by: Sequence[Worker] = ()) -> None:
        """Wait until each of these workers has logged this; without workers, until any has."""
        wait_until(
            lambda: (
                all(text in worker.log_text() for worker in by)
                if by
                else any(text in worker.log_text() for worker in self.workers)
            ),
            timeout_s,
            f"{text!r} to be logged",
        )

    def wait_caught_up(self, timeout_s: float = 60) -> None:
        wait_until(lambda: self.lag() == 0, timeout_s, "the lag to become 0", interval_s=0.2)

    def past_flushed(self, *, is_fed: bool = False) -> list[str]:
        """Judge the moments kept: what was committed and neither in Redis nor told.

        While readings keep coming, only those moments of which the ledger knows all: the feeder notes by the second.
        """
        found: list[str] = []
        while self._moments and (not is_fed or self.ledger.covers(self._moments[0].committed)):
            moment = self._moments.pop(0)
            found += self.ledger.what_was_committed_too_early(moment.committed, moment.held)
            found += [
                f"{place} is bad, committed and not told"
                for place in self.ledger.bad() - moment.told
                if place[1] < moment.committed.get(place[0], 0)
            ]
        return found

    def assert_nothing_lost(self, timeout_s: float = 60) -> None:
        """Wait until all is committed, then hold everything that was promised against what is and was seen."""
        self.wait_caught_up(timeout_s)
        self.look()
        self.assert_equal_to_oracle()
        assert told(self.topics) == self.ledger.bad()
        self.assert_never_wrong()

    def assert_equal_to_oracle(self) -> None:
        """Hold Redis against what all readings so far come to."""
        differences = self.differences()
        assert not differences, differences

    def differences(self) -> str:
        """Say where Redis differs from what all readings so far come to; empty where it doesn't."""
        differences = ""
        deadline_s = time.monotonic() + _TRAILING_S  # `devices` may trail by a moment
        state = self.ledger.state()
        with self.sampler.paused(), redis.Redis.from_url(self.database.url) as client:
            while True:
                try:
                    oracle.assert_equal_to_redis(state, client)
                except AssertionError as error:
                    differences = str(error)
                else:
                    return ""
                if time.monotonic() > deadline_s:
                    return differences
                time.sleep(0.5)

    def assert_never_wrong(self) -> None:
        """Hold what was seen so far against the promises that hold at any moment."""
        assert self.sampler.sample_count
        assert not self.sampler.steps_back, _first("steps back", self.sampler.steps_back)
        past = self.past_flushed()
        assert not past, _first("committed past flushed", past)
        alarms = [line for line in self._log_lines() if "state was lost" in line]
        assert self._may_be_emptied or not alarms, _first("false alarms", alarms)


def _rewind(topics: TopicNames) -> None:
    """Set the group's offsets to the earliest, as `kafka-consumer-groups.sh --reset-offsets --to-earliest` does."""
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    partitions = harness.end_offsets(topics.bootstrap, topics.source)
    begins = [TopicPartition(topics.source, partition, 0) for partition in partitions]
    request = [ConsumerGroupTopicPartitions(topics.group, begins)]

    def is_done() -> bool:
        """Ask; refused, partition by partition, as long as the broker thinks that the group has a member."""
        (altered,) = admin.alter_consumer_group_offsets(request).values()
        return not any(of.error for of in altered.result(10).topic_partitions)

    wait_until(is_done, 60, "the group's offsets to be set")


def _first(what: str, lines: list[str]) -> str:
    return f"{len(lines)} {what}, the first of them:\n" + "\n".join(lines[:_SHOWN])


def wait_ready_or_gone(worker: Worker, timeout_s: float = 30) -> None:
    """Wait until it is ready (again), or has exited."""
    wait_until(
        lambda: not worker.is_running or not worker.what_lacks(), timeout_s, f"{worker.name} to be ready or gone"
    )


def has_joined(worker: Worker) -> bool:
    """Tell whether it is a member of its group, whatever else keeps readings out."""
    lacking = worker.what_lacks()
    return not lacking or '"group":"ok"' in lacking


def metric(worker: Worker, series: str) -> float:
    """Return a series' value, named as it is in /metrics."""
    lines = worker.get("/metrics")[1].decode().splitlines()
    return next(float(line.removeprefix(series)) for line in lines if line.startswith(f"{series} "))


def checks(worker: Worker) -> dict[str, str]:
    """Return what `/health/ready` says of each check."""
    found: dict[str, str] = json.loads(worker.get("/health/ready")[1])["checks"]
    return found
