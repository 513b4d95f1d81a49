"""The log of an outage is tens of lines, not thousands, and it says where the one that is away should be."""

import itertools
import time
from pathlib import Path

import pytest

from tests.faults.scene import Scene, has_joined
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import KafkaServer
from tests.services.processes import free_port

OUTAGE_S = 25
#: The client has five kinds of lines, each of which shows once in 10 s; what our own parts say comes on top.
MOST_LINES_A_MINUTE = 80


def assert_is_calm(worker: Worker, address: str) -> None:
    """Watch the log during an outage that has begun, and look for this address in it."""
    length, began_s = len(worker.log_text()), time.monotonic()
    time.sleep(OUTAGE_S)
    wait_until(lambda: address in worker.log_text()[length:], 60, "the address in the log")
    lines = worker.log_text()[length:].splitlines()
    assert len(lines) <= MOST_LINES_A_MINUTE * (time.monotonic() - began_s) / 60, "\n".join(lines[:50])


@pytest.mark.parametrize("how", ["frozen", "stopped"])
def test_kafka_goes_away(kafka_scene: Scene, own_kafka: KafkaServer, how: str) -> None:
    scene = kafka_scene
    (worker,) = scene.start_workers()
    scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
    scene.wait_caught_up()
    own_kafka.freeze() if how == "frozen" else own_kafka.stop()
    try:
        assert_is_calm(worker, scene.topics.bootstrap)
    finally:
        own_kafka.thaw() if how == "frozen" else own_kafka.start()
    scene.assert_nothing_lost()


def test_advertised_listener_is_unreachable(redis_db: RedisDatabase, tmp_path: Path) -> None:
    advertised = f"127.0.0.1:{free_port()}"
    properties = {"advertised.listeners": f"PLAINTEXT://{advertised}"}
    with KafkaServer(tmp_path / "kafka", properties=properties) as kafka:
        env = TopicNames.unique(kafka.bootstrap_servers).env() | redis_db.env()
        with Worker(tmp_path, env) as worker:
            wait_until(lambda: "advertised.listeners" in worker.log_text(), 30, "a line")
            assert_is_calm(worker, advertised)
            assert worker.terminate() == 0, worker.log_tail()


def test_error_topic_is_missing(kafka_scene: Scene) -> None:
    scene = kafka_scene
    worker = scene.add_worker(KAFKA_ERROR_TOPIC="iot_errorz")
    wait_until(lambda: has_joined(worker), 60, "it to join")
    bad = (draft._replace(value=b"{") for draft in scene.drafts(1, per_second=10))
    with scene.fed_with(bad, 10):
        wait_until(lambda: "iot_errorz" in worker.log_text(), 60, "a line")
        assert_is_calm(worker, "iot_errorz")
