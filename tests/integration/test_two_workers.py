"""Two workers share the partitions, and one of them dies in the middle: same state, and nobody sees a step back."""

import itertools
from pathlib import Path

from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames

BACKLOG = 400_000


def test_one_of_two_is_killed_amid_400_000_readings__and_comes_back(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    with Scene(topic_names, redis_db, tmp_path) as scene:
        scene.ledger.produce(itertools.islice(scene.drafts(3), BACKLOG))
        workers = scene.start_workers(2)
        scene.wait_committed(BACKLOG // 20)
        workers[0].kill()
        assert scene.lag(), "the kill came too late to prove anything"
        scene.look()
        workers[0].start()
        scene.assert_nothing_lost()
        assert [worker.terminate() for worker in workers] == [0, 0]
