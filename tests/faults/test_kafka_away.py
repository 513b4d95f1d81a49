"""A Kafka that is away is noticed by itself, said with its address, and no reason to refuse lookups."""

import itertools
import time
from pathlib import Path

import pytest

from tests.faults.scene import Scene, checks
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import KafkaServer, free_port

NOTICED_WITHIN_S = 30
#: A look at a worker's probes takes a moment.
SLACK_S = 5


def our_lines(worker: Worker) -> list[str]:
    return [line for line in worker.log_text().splitlines() if "waiting for Kafka" in line]


def assert_lookups_go_on(worker: Worker) -> None:
    assert worker.get("/health/ready")[0] == 200
    assert worker.get("/health/live")[0] == 200
    assert worker.get("/devices?limit=1")[0] == 200


@pytest.mark.parametrize("how", ["frozen", "stopped"])
def test_away_later__is_said_with_its_address(kafka_scene: Scene, own_kafka: KafkaServer, how: str) -> None:
    scene = kafka_scene
    (worker,) = scene.start_workers()
    scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
    scene.wait_caught_up()
    own_kafka.freeze() if how == "frozen" else own_kafka.stop()
    try:
        wait_until(lambda: checks(worker)["kafka"] != "ok", NOTICED_WITHIN_S + SLACK_S, "it to be noticed")
        assert worker.get("/health/ingest")[0] == 503
        assert own_kafka.bootstrap_servers in checks(worker)["kafka"]
        assert checks(worker)["source_topic"] == "unknown"
        assert_lookups_go_on(worker)
        first, *more = our_lines(worker)
        assert own_kafka.bootstrap_servers in first
        assert "nothing is lost, lookups go on" in first
        assert 1 <= len(more) <= 4, "once in 10 s"
    finally:
        own_kafka.thaw() if how == "frozen" else own_kafka.start()
    worker.wait_ready(30)
    assert "Kafka answers, after" in worker.log_text()
    scene.ledger.produce(itertools.islice(scene.drafts(2), 1_000))
    scene.assert_nothing_lost()


def test_advertised_listener_that_nobody_reaches__is_named(redis_db: RedisDatabase, tmp_path: Path) -> None:
    """The bootstrap server answers, and sends everybody elsewhere."""
    port, misled, nowhere, controller = (free_port() for _ in range(4))
    properties = {
        "listeners": f"GOOD://127.0.0.1:{port},BAD://127.0.0.1:{misled},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"GOOD://127.0.0.1:{port},BAD://127.0.0.1:{nowhere}",
        "listener.security.protocol.map": "GOOD:PLAINTEXT,BAD:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "GOOD",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }
    with (
        KafkaServer(tmp_path / "kafka", port=port, properties=properties) as kafka,
        Scene(TopicNames.unique(kafka.bootstrap_servers), redis_db, tmp_path) as scene,
    ):
        worker = scene.add_worker(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{misled}")
        wait_until(lambda: our_lines(worker), 20, "it to be said")
        time.sleep(1)
        assert f"127.0.0.1:{nowhere}" in our_lines(worker)[0]
        assert "advertised.listeners" in our_lines(worker)[0]
        assert f"127.0.0.1:{nowhere}" in checks(worker)["kafka"]
        assert worker.get("/health/ingest")[0] == 503
        assert_lookups_go_on(worker)
