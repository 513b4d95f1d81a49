"""A consumer that stalls in silence is noticed and restarted; one that waits for something is left alone."""

import itertools
import time
from pathlib import Path

import pytest
import redis

from tests.faults.scene import Scene
from tests.harness import Worker, faust_worker, wait_until
from tests.services import KafkaServer, RedisServer

STALLING_WORKER = faust_worker("tests.faults.stalling_app")
STALL_TIMEOUT_S, STALL_EXIT_S = 4, 4
WATCHED = {"STALL_TIMEOUT_S": str(STALL_TIMEOUT_S), "STALL_EXIT_S": str(STALL_EXIT_S)}
#: Long enough for the watchdog to be wrong.
LONG_S = STALL_TIMEOUT_S + STALL_EXIT_S + 5


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "stall"


@pytest.fixture
def stalling(scene: Scene, flag: Path) -> Worker:
    """A worker whose consumer stalls while the flag is there."""
    worker = scene.add_worker(STALLING_WORKER, STALL_WHILE_EXISTS=str(flag), **WATCHED)
    worker.wait_ready()
    return worker


def live(worker: Worker) -> int:
    return worker.get("/health/live")[0]


def assert_left_alone(workers: list[Worker]) -> None:
    """Hold that no watchdog barks for a long time."""
    deadline_s = time.monotonic() + LONG_S
    while time.monotonic() < deadline_s:
        assert [live(worker) for worker in workers] == [200] * len(workers)
        time.sleep(0.5)


def test_stalled__is_told_and_exits_1(scene: Scene, stalling: Worker, flag: Path) -> None:
    scene.ledger.produce(itertools.islice(scene.drafts(1), 10_000))
    scene.wait_caught_up()
    flag.touch()
    scene.ledger.produce(itertools.islice(scene.drafts(2), 10_000))
    wait_until(lambda: live(stalling) == 503, STALL_TIMEOUT_S + 5, "the stall to be noticed")
    assert b"stalled" in stalling.get("/health/live")[1]
    assert stalling.wait_exit(STALL_EXIT_S + 15) == 1
    assert " exit 1: " in stalling.log_tail(1)
    assert "records to read" in stalling.log_tail(1)
    # A fetch that waited when the stall began may have brought the first of them.
    assert f"the consumer has stalled: {scene.lag()} records to read" in stalling.log_text()
    flag.unlink()
    stalling.start()
    scene.assert_nothing_lost()


def test_stalled_for_a_while__goes_on(scene: Scene, stalling: Worker, flag: Path) -> None:
    flag.touch()
    scene.ledger.produce(itertools.islice(scene.drafts(2), 10_000))
    wait_until(lambda: live(stalling) == 503, STALL_TIMEOUT_S + 5, "the stall to be noticed")
    flag.unlink()
    scene.assert_nothing_lost()
    assert live(stalling) == 200
    assert_left_alone([stalling])


def test_idle_topic__is_no_stall(scene: Scene) -> None:
    workers = scene.start_workers(2, **WATCHED)
    scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
    scene.wait_caught_up()
    assert_left_alone(workers)


def test_waiting_for_redis__is_no_stall(redis_scene: Scene, own_redis: RedisServer) -> None:
    workers = redis_scene.start_workers(2, **WATCHED, MAX_UNACKED_READINGS="1000")
    redis_scene.ledger.produce(itertools.islice(redis_scene.drafts(1), 100_000))
    own_redis.freeze()
    assert_left_alone(workers)
    own_redis.thaw()
    redis_scene.assert_nothing_lost()


def test_waiting_for_redis_at_the_start__is_no_stall(redis_scene: Scene, own_redis: RedisServer) -> None:
    redis_scene.ledger.produce(itertools.islice(redis_scene.drafts(1), 10_000))
    own_redis.freeze()
    worker = redis_scene.add_worker(**WATCHED)
    redis_scene.wait_logged("readings wait", by=[worker])
    assert_left_alone([worker])
    own_redis.thaw()
    redis_scene.assert_nothing_lost()


def test_redis_that_takes_no_writes_at_the_start__is_no_stall(redis_scene: Scene, own_redis: RedisServer) -> None:
    redis_scene.ledger.produce(itertools.islice(redis_scene.drafts(1), 10_000))
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.replicaof("127.0.0.1", 1)  # nobody is there: it keeps its data, and refuses writes
        worker = redis_scene.add_worker(**WATCHED)
        wait_until(lambda: "it is a replica" in worker.what_lacks(), 30, "it to be said")
        assert worker.get("/health/ready")[0] == 200
        assert_left_alone([worker])
        operator.replicaof("NO", "ONE")
    redis_scene.assert_nothing_lost()
    worker.wait_ready(10)


def test_waiting_for_the_broker__is_no_stall(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    workers = kafka_scene.start_workers(2, **WATCHED)
    kafka_scene.ledger.produce(itertools.islice(kafka_scene.drafts(1), 400_000))
    own_kafka.freeze()
    assert_left_alone(workers)
    own_kafka.thaw()
    kafka_scene.assert_nothing_lost()


def test_waiting_for_the_error_topic__is_no_stall(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    scene = kafka_scene
    scene.configure(scene.topics.errors, max_message_bytes="100")
    workers = scene.start_workers(2, **WATCHED, MAX_UNACKED_READINGS="1000")
    drafts = [
        draft._replace(value=b"{") if number % 10 == 0 else draft
        for number, draft in enumerate(itertools.islice(scene.drafts(1), 20_000))
    ]
    scene.ledger.produce(drafts)
    assert_left_alone(workers)
    scene.configure(scene.topics.errors, max_message_bytes="1000000")
    scene.assert_nothing_lost()
    assert own_kafka.is_running
