"""What is seen of Redis and of the group from outside, while faults are caused: samples, and moments to judge later."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from typing import NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import harness, oracle
from tests.faults.ledger import Ledger
from tests.harness import RedisDatabase, TopicNames

_DEVICES_PER_SAMPLE = 200
_PAUSE_S = 0.02
_PIPELINED = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def orders_held(client: redis.Redis, device_ids: Sequence[str]) -> dict[str, oracle.Order | None]:
    """Read which record each device shows now; None for a device that isn't there."""
    held: dict[str, oracle.Order | None] = {}
    for start in range(0, len(device_ids), _PIPELINED):
        some = device_ids[start : start + _PIPELINED]
        pipeline = client.pipeline(transaction=False)
        for device_id in some:
            pipeline.hmget(f"device:{device_id}:metadata".encode(), ["last_updated", "_at"])
        for device_id, answer in zip(some, pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(answer, redis.ResponseError) and not str(answer).startswith("WRONGTYPE"):
                raise answer
            is_there = not isinstance(answer, redis.ResponseError) and answer[0] is not None
            held[device_id] = _order(*answer) if is_there else None
    return held


def _order(last_updated: bytes, at: bytes) -> oracle.Order:
    offset, partition, _ = at.split(b":")
    moment = datetime.fromisoformat(last_updated.decode())
    return (moment - _EPOCH) // timedelta(microseconds=1), int(offset), int(partition)


class Sampler:
    """A reader like any other, in a thread: reads random devices all the time, and notes each step back.

    It notes a device that vanishes too, unless `may_vanish`: where there are tombstones, or Redis was emptied.
    """

    def __init__(self, database: RedisDatabase, ledger: Ledger, *, may_vanish: bool = False) -> None:
        self._database, self._ledger, self._may_vanish = database, ledger, may_vanish
        self._seen: dict[str, oracle.Order] = {}
        self._stop = Event()
        self._sampling = Lock()
        self._random = random.Random(7)
        self.steps_back: list[str] = []
        self.sample_count = 0
        self._failure: BaseException | None = None

    def forget(self) -> None:
        """Take what is there from now on as the beginning."""
        self._seen = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Sample nothing as long as the block lasts: the oracle reads a deadline in two steps, and we came between."""
        with self._sampling:
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample as long as the block lasts. Raises at its end: what the thread ended of."""
        thread = Thread(target=self._run, name="sampler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            with _impatient(self._database) as client:
                while not self._stop.wait(_PAUSE_S):
                    try:
                        with self._sampling:
                            self._sample(client)
                        client.connection_pool.disconnect()  # the master may have moved behind its address
                    except (redis.RedisError, OSError):
                        continue  # it is being frozen, cut or restarted
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._failure = error

    def _sample(self, client: redis.Redis) -> None:
        known = self._ledger.device_ids()
        if not known:
            return
        seen = self._seen
        chosen = self._random.sample(known, min(len(known), _DEVICES_PER_SAMPLE))
        for device_id, order in orders_held(client, chosen).items():
            before = seen.get(device_id)
            self.sample_count += 1
            if order is not None:
                seen[device_id] = order
            if before is not None and (order < before if order is not None else not self._may_vanish):
                self.steps_back.append(f"{device_id!r}: {before}, then {order}")


class Moment(NamedTuple):
    """The committed offsets, and what Redis and `iot_errors` held a moment later."""

    committed: dict[int, int]
    held: dict[str, oracle.Order | None]
    told: set[tuple[int, int]]


def look(topics: TopicNames, database: RedisDatabase, ledger: Ledger) -> Moment:
    """Read the committed offsets first, so that what is held must cover them."""
    committed = harness.committed_offsets(topics.bootstrap, topics.group, topics.source)
    with _impatient(database) as client:
        # Not the ledger's devices: it notes a batch of readings when all of it is acknowledged.
        keys = sorted(set(client.scan_iter("device:*:metadata", count=1000)))
        ids = [key.removeprefix(b"device:").removesuffix(b":metadata").decode() for key in keys]
        held = orders_held(client, ids)
    return Moment(committed, held, told(topics) if ledger.bad() else set())


def told(topics: TopicNames) -> set[tuple[int, int]]:
    """Partition and offset of every record that `iot_errors` tells of."""
    messages = harness.consume_all(topics.bootstrap, topics.errors)
    headers = [dict(message.headers() or []) for message in messages]
    return {(int(some["source.partition"] or 0), int(some["source.offset"] or 0)) for some in headers}


def _impatient(database: RedisDatabase) -> redis.Redis:
    return redis.Redis.from_url(database.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
