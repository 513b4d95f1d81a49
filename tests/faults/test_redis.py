"""Redis freezes, is cut off, restarted, full, read-only, loading, or asks for another password."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, checks
from tests.faults.watching import told
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import RedisServer

READINGS_BEFORE = 30_000


@contextmanager
def busy(scene: Scene, workers: int = 2, per_second: int = 12_000) -> Iterator[None]:
    """Have workers in the middle of a stream; at the end of the block they must have stayed, and lost nothing."""
    started = scene.start_workers(workers)
    with scene.fed(per_second=per_second):
        scene.wait_committed(READINGS_BEFORE)
        yield
        scene.wait_committed(READINGS_BEFORE)
    assert all(worker.is_running for worker in started)
    scene.assert_nothing_lost()
    assert [worker.what_lacks() for worker in started] == [""] * workers


def wait_not_ok(worker: Worker, check: str) -> str:
    """Wait until this check of readiness fails, and return what it says."""
    wait_until(lambda: checks(worker)[check] != "ok", 30, f"{check} not to be ok")
    return checks(worker)[check]


def test_frozen_20_s(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene):
        own_redis.freeze()
        time.sleep(20)
        assert checks(redis_scene.workers[0])["redis"] != "ok"
        assert redis_scene.workers[0].get("/health/live")[0] == 200
        own_redis.thaw()


def test_killed_and_restarted_with_aof(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene):
        for away_s in (0, 3, 8):
            own_redis.kill()
            time.sleep(away_s)
            own_redis.start()
            redis_scene.look()
            redis_scene.wait_committed(READINGS_BEFORE)


def test_stopped_and_restarted(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene):
        own_redis.restart()
        redis_scene.look()


def test_restarted_empty__tells_the_operator_how_to_rebuild(topic_names: TopicNames, tmp_path: Path) -> None:
    """Nothing in the topic is read again by itself, so somebody has to be told; doing what it says helps."""
    with (
        RedisServer(tmp_path / "redis") as server,
        Scene(topic_names, RedisDatabase.of_url(server.url), tmp_path, may_vanish=True) as scene,
    ):
        scene.start_workers(2)
        scene.ledger.produce(itertools.islice(scene.drafts(1), 50_000))
        scene.assert_nothing_lost()
        assert [checks(worker)["state"] for worker in scene.workers] == ["ok", "ok"]
        server.restart(empty=True)
        scene.sampler.forget()
        for worker in scene.workers:
            finding = wait_not_ok(worker, "state")
            assert "state was lost" in finding
            assert topic_names.group in finding
            assert "earliest" in finding
            assert "state was lost" in worker.log_text()

        scene.rebuild()
        scene.wait_caught_up()
        scene.assert_equal_to_oracle()
        wait_until(lambda: [checks(w)["state"] for w in scene.workers] == ["ok", "ok"], 30, "the state to be whole")


def test_connections_cut_in_the_middle_of_a_pipeline(
    topic_names: TopicNames, own_redis: RedisServer, tmp_path: Path
) -> None:
    database = RedisDatabase.of_url(own_redis.url)
    with Proxy(own_redis.port) as proxy, Scene(topic_names, database, tmp_path) as scene:
        scene.reach_redis_at(proxy.port)
        with busy(scene):
            for _ in range(40):
                proxy.cut()
                time.sleep(0.25)
        assert proxy.cut_count > 20


def test_slow__200_ms_each_way(topic_names: TopicNames, own_redis: RedisServer, tmp_path: Path) -> None:
    database = RedisDatabase.of_url(own_redis.url)
    with Proxy(own_redis.port, delay_s=0.2) as proxy, Scene(topic_names, database, tmp_path) as scene:
        scene.reach_redis_at(proxy.port)
        with busy(scene):
            time.sleep(10)
            assert "flush of" not in "".join(worker.log_text() for worker in scene.workers)


def test_full__goes_on_when_there_is_memory_again(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("maxmemory-policy", "noeviction")
        operator.config_set("maxmemory", "1mb")
        redis_scene.wait_logged("OutOfMemoryError")
        time.sleep(3)
        redis_scene.look()
        operator.config_set("maxmemory", "0")


def test_read_only_replica__goes_on_when_promoted(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        operator.replicaof("127.0.0.1", 1)  # nobody is there: it keeps its data, and refuses writes
        redis_scene.wait_logged("ReadOnlyError")
        time.sleep(3)
        redis_scene.look()
        operator.replicaof("NO", "ONE")


def test_loading__goes_on_when_loaded(redis_scene: Scene, own_redis: RedisServer) -> None:
    slow = ("--appendonly", "yes", "--key-load-delay", "100")  # µs for each command of the file
    reborn = RedisServer(own_redis.directory, port=own_redis.port, args=slow)
    try:
        with busy(redis_scene):
            own_redis.stop()
            reborn.launch()
            redis_scene.wait_logged("BusyLoadingError")
            reborn.wait_ready()
            redis_scene.look()
    finally:
        reborn.stop()


def test_scripts_flushed_again_and_again(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        for _ in range(50):
            operator.script_flush()
            time.sleep(0.1)


def test_password_changed__goes_on_when_it_is_right_again(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("requirepass", "another")
        operator.client_kill_filter(_type="normal", skipme=True)
        redis_scene.wait_logged("AuthenticationError")
        assert checks(redis_scene.workers[0])["redis"] != "ok"
        time.sleep(3)
        operator.config_set("requirepass", "")


def test_wrong_password__is_said_and_never_shown(redis_scene: Scene, own_redis: RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("requirepass", "right")
        worker = redis_scene.add_worker(REDIS_PASSWORD="hunter2-wrong")
        said = wait_until(lambda: "Authentication" in worker.what_lacks(), 30, "readiness to say it")
        assert said
        redis_scene.ledger.produce(itertools.islice(redis_scene.drafts(1), 1000))
        redis_scene.wait_logged("AuthenticationError")
        operator.config_set("requirepass", "hunter2-wrong")
        redis_scene.wait_caught_up()
        assert worker.terminate() == 0
        assert "hunter2" not in worker.log_text()
        operator.config_set("requirepass", "")
    redis_scene.assert_nothing_lost()


def test_wrong_type_at_one_device__is_told_and_the_others_go_on(redis_scene: Scene, own_redis: RedisServer) -> None:
    scene = redis_scene
    drafts = list(itertools.islice(scene.drafts(1, devices=50), 5_000))
    stranger = json.loads(drafts[0].value or b"")["device_id"]
    key = f"device:{stranger}:metadata"
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.set(key, "somebody else's")
        scene.ledger.produce(drafts)
        scene.start_workers(2)
        scene.wait_caught_up()
        assert operator.get(key) == b"somebody else's"
        assert told(scene.topics)
        assert all(draft.partition == drafts[0].partition for draft in drafts if draft.key == drafts[0].key)
        assert {partition for partition, _ in told(scene.topics)} == {drafts[0].partition}
        operator.delete(key)
        scene.rebuild()
        scene.wait_caught_up()
        scene.assert_equal_to_oracle()


def test_memory__stays_bounded_while_redis_is_away(redis_scene: Scene, own_redis: RedisServer) -> None:
    scene = redis_scene
    (worker,) = scene.start_workers()
    with scene.fed(per_second=20_000):
        scene.wait_committed(100_000)
        before = worker.rss_bytes()
        own_redis.freeze()
        largest = before
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            largest = max(largest, worker.rss_bytes())
            time.sleep(0.2)
        own_redis.thaw()
    scene.assert_nothing_lost(120)
    assert largest - before < 100_000_000, f"grew by {(largest - before) / 1e6:.0f} MB"
