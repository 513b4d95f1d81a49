"""`stream_cache_lag_records` is what `kafka-consumer-groups --describe` says, whatever is away."""

import itertools
from threading import Event, Thread

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.scene import Scene, has_joined, metric
from tests.harness import Worker, wait_until
from tests.services import RedisServer

SERIES = "stream_cache_lag_records"
WITHIN_S = 10


def lags(scene: Scene) -> list[int]:
    return [int(metric(worker, SERIES)) for worker in scene.workers]


def test_redis_frozen__the_backlog_is_the_lag(redis_scene: Scene, own_redis: RedisServer) -> None:
    """More than the worker takes: what it has not even fetched counts too. A worker that joins moves none of it."""
    scene = redis_scene
    (worker,) = scene.start_workers(MAX_UNACKED_READINGS="1000")
    scene.ledger.produce(itertools.islice(scene.drafts(1), 10_000))
    scene.wait_caught_up()
    wait_until(lambda: lags(scene) == [0], WITHIN_S, "the lag to be told")
    own_redis.freeze()
    scene.ledger.produce(itertools.islice(scene.drafts(2), 30_000))
    wait_until(lambda: lags(scene) == [scene.lag()], WITHIN_S, "the lag to be told")
    seen: set[int] = set()
    stop = Event()
    watcher = Thread(target=watch, args=(worker, seen, stop), daemon=True)
    watcher.start()
    scene.add_worker()
    wait_until(lambda: has_joined(scene.workers[1]), 60, "the second to join")
    wait_until(lambda: sum(lags(scene)) == scene.lag() > lags(scene)[0], 60, "each to tell its own")
    stop.set()
    watcher.join()
    assert seen == {scene.lag(), lags(scene)[0]}, "before and after, and nothing between"
    own_redis.thaw()
    wait_until(lambda: lags(scene) == [0, 0], 60, "the lag to be 0")
    scene.assert_nothing_lost()


def watch(worker: Worker, seen: set[int], stop: Event) -> None:
    while not stop.wait(0.02):
        seen.add(int(metric(worker, SERIES)))


def test_nothing_committed__counts_from_where_the_topic_begins(redis_scene: Scene, own_redis: RedisServer) -> None:
    scene = redis_scene
    scene.ledger.produce(itertools.islice(scene.drafts(1), 10_000))
    ends = [TopicPartition(scene.topics.source, partition, 2_000) for partition in range(scene.partitions)]
    admin = AdminClient({"bootstrap.servers": scene.topics.bootstrap})
    for deleted in admin.delete_records(ends).values():
        deleted.result(10)
    own_redis.freeze()
    scene.add_worker()
    wait_until(lambda: has_joined(scene.workers[0]), 60, "it to join")
    left = 10_000 - 2_000 * scene.partitions
    wait_until(lambda: lags(scene) == [left], WITHIN_S, f"the lag to be {left}")
    assert scene.lag() == 10_000, "nothing is committed, and offsets count on"
