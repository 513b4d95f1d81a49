"""What must not wait for the long poll of an idle topic: the start and the stop."""

from pathlib import Path

from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames

#: The longest that may be set: if anything waits for it, the test fails.
POLL_TIMEOUT_S = 30
WITHIN_S = 20


def test_idle_topic__start_and_stop_do_not_wait_for_the_poll_timeout(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    with Scene(topic_names, redis_db, tmp_path, env={"KAFKA_CONSUMER_POLL_TIMEOUT_S": str(POLL_TIMEOUT_S)}) as scene:
        worker = scene.add_worker()
        worker.wait_ready(WITHIN_S)
        assert worker.terminate(WITHIN_S) == 0
