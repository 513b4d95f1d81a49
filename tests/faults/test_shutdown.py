"""SIGTERM while Kafka or Redis is away: orderly within 10 s, and 1 only where something taken can't be flushed."""

import time
from pathlib import Path

import pytest

from tests.faults.scene import Scene, has_joined, metric
from tests.harness import Record, RedisDatabase, TopicNames, Worker, produce, wait_until
from tests.services import KafkaServer, free_port

EXIT_WITHIN_S = 10


def terminated(worker: Worker) -> int:
    """End it as a supervisor does, and return its exit code. Fails when it took too long, or was cut off."""
    began_s = time.monotonic()
    exit_code = worker.terminate()
    assert time.monotonic() - began_s < EXIT_WITHIN_S, worker.log_tail()
    assert "did not end" not in worker.log_text(), worker.log_tail()
    return exit_code


@pytest.mark.parametrize(("how", "shutdown_timeout_s"), [("frozen", "8"), ("gone", "5")])
def test_kafka_away__with_all_flushed_exits_0(
    kafka_scene: Scene, own_kafka: KafkaServer, how: str, shutdown_timeout_s: str
) -> None:
    """What was flushed last can't be committed; it is read again, which is harmless."""
    scene = kafka_scene
    (worker,) = scene.start_workers(SHUTDOWN_TIMEOUT_S=shutdown_timeout_s)
    with scene.fed(per_second=2000):
        scene.wait_committed(2000)
        own_kafka.freeze() if how == "frozen" else own_kafka.kill()
        try:
            time.sleep(2)  # so that requests of every kind are on their way
            assert terminated(worker) == 0, worker.log_tail()
        finally:
            own_kafka.thaw() if how == "frozen" else own_kafka.start()
    scene.start_workers()
    scene.assert_nothing_lost()


def test_kafka_away__with_a_bad_record_unpublished_exits_1(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    scene = kafka_scene
    # The topic for errors refuses whatever is sent, so that something is left when the broker freezes.
    scene.configure(scene.topics.errors, max_message_bytes="100")
    (worker,) = scene.start_workers()
    produce(scene.topics.bootstrap, scene.topics.source, [Record(b"bad")])
    wait_until(lambda: metric(worker, 'stream_cache_records_total{result="bad"}'), 30, "the bad record")
    own_kafka.freeze()
    try:
        assert terminated(worker) == 1, worker.log_tail()
    finally:
        own_kafka.thaw()


def test_redis_unusable_from_the_start__with_nothing_taken_exits_0(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    with Scene(topic_names, redis_db, tmp_path) as scene:
        scene.reach_redis_at(free_port())
        produce(scene.topics.bootstrap, scene.topics.source, [Record(b"bad")])
        worker = scene.add_worker()
        wait_until(lambda: has_joined(worker), 60, "the worker to join")
        assert terminated(worker) == 0, worker.log_tail()
