"""The master moves behind its address, as a DNS name, a Kubernetes Service or a proxy does: old connections stay."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames, wait_until
from tests.services import RedisServer
from tests.services.redis import fail_over, follow

READINGS_BEFORE = 10_000


class Moving(NamedTuple):
    """A scene whose Redis is reached by an address, the two servers that may stand behind it, and a straight way."""

    scene: Scene
    address: Proxy
    old: RedisServer
    new: RedisServer

    def move(self) -> None:
        """Let the new server take over, and then move the address: in between all reach what is a replica now."""
        fail_over(self.old, self.new)
        time.sleep(0.5)
        self.address.move_to(self.new.port)


@pytest.fixture
def moving(topic_names: TopicNames, own_redis: RedisServer, tmp_path: Path) -> Iterator[Moving]:
    with Proxy(own_redis.port) as address, RedisServer(tmp_path / "new") as new:
        follow(own_redis, new)
        database = address.before(RedisDatabase.of_url(own_redis.url))
        with Scene(topic_names, database, tmp_path) as scene:
            yield Moving(scene, address, own_redis, new)


def test_failover_behind_an_address__is_followed_within_seconds_and_loses_nothing(moving: Moving) -> None:
    scene = moving.scene
    workers = scene.start_workers(2)
    with scene.fed(per_second=5_000):
        scene.wait_committed(READINGS_BEFORE)
        moving.move()
        scene.look()
        scene.wait_committed(1, 10)
        scene.wait_committed(READINGS_BEFORE)
    scene.assert_nothing_lost()
    assert [worker.what_lacks() for worker in workers] == ["", ""]
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_failover_behind_an_address__is_followed_by_lookups_though_no_reading_comes(moving: Moving) -> None:
    (worker,) = moving.scene.start_workers()
    moving.move()
    with redis.Redis.from_url(moving.old.url) as operator:
        operator.replicaof("127.0.0.1", 1)  # what comes now it doesn't have
    with redis.Redis.from_url(moving.new.url) as operator:
        operator.hset("device:new:metadata", "last_updated", "2024-01-01T00:00:00.000000Z")
    wait_until(lambda: worker.get("/devices/new/metadata")[0] == 200, 10, "lookups to see what is written now")
    assert worker.terminate() == 0
