"""What must not wait for the long poll of an idle topic: the start, a rebalance, and the stop."""

from pathlib import Path

from tests.faults.scene import Scene
from tests.harness import Record, RedisDatabase, TopicNames, produce

#: The longest that may be set: if anything waits for it, the test fails.
POLL_TIMEOUT_S = 30
WITHIN_S = 20


def test_idle_topic__start_rebalance_and_stop_do_not_wait_for_the_poll_timeout(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    with Scene(topic_names, redis_db, tmp_path, env={"KAFKA_CONSUMER_POLL_TIMEOUT_S": str(POLL_TIMEOUT_S)}) as scene:
        first = scene.add_worker()
        first.wait_ready(WITHIN_S)
        # With a commit in one partition and none in the others, and the position of each moved by a poll or none.
        produce(topic_names.bootstrap, topic_names.source, [Record(b"bad", partition=0)])
        scene.wait_caught_up(WITHIN_S)
        second = scene.add_worker()
        second.wait_ready(WITHIN_S)
        first.wait_ready(WITHIN_S)
        assert second.terminate(WITHIN_S) == 0
        first.wait_ready(WITHIN_S)
        produce(topic_names.bootstrap, topic_names.source, [Record(b"bad", partition=n) for n in range(4)])
        scene.wait_caught_up(WITHIN_S)
        assert first.terminate(WITHIN_S) == 0
