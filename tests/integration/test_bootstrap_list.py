"""A bootstrap list whose first address accepts and stays silent, as a black-holed broker or a stuck proxy does."""

import socket
from pathlib import Path

from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames


def test_first_address_is_silent__the_next_one_is_tried(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """That takes the client's own time, in which nothing may take the missing membership for a dead one."""
    with socket.create_server(("127.0.0.1", 0)) as silent, Scene(topic_names, redis_db, tmp_path) as scene:
        servers = f"127.0.0.1:{silent.getsockname()[1]},{topic_names.bootstrap}"
        worker = scene.add_worker(KAFKA_BOOTSTRAP_SERVERS=servers)
        worker.wait_ready(60)
        assert worker.terminate() == 0
