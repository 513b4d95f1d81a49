"""Redis freezes, is cut off, restarted, full, read-only, loading, or asks for another password."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests import harness, oracle
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, checks
from tests.faults.watching import told
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import RedisServer
from tests.services.redis import replica_count

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
        wait_until(
            lambda: [checks(w)["state"] for w in scene.workers] == ["ok", "ok"], 10, "the first start to be done"
        )
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
            assert "readings wait" not in "".join(worker.log_text() for worker in scene.workers)


def test_full__goes_on_when_there_is_memory_again(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("maxmemory-policy", "noeviction")
        operator.config_set("maxmemory", "1mb")
        redis_scene.wait_logged("out of memory")
        worker = redis_scene.workers[0]
        assert "out of memory" in wait_not_ok(worker, "flush")
        assert worker.get("/health/ready")[0] == 200, "lookups are answered"
        assert worker.get("/health/ingest")[0] == 503
        time.sleep(3)
        redis_scene.look()
        operator.config_set("maxmemory", "0")


def test_read_only_replica__goes_on_when_promoted(redis_scene: Scene, own_redis: RedisServer) -> None:
    with busy(redis_scene), redis.Redis.from_url(own_redis.url) as operator:
        operator.replicaof("127.0.0.1", 1)  # nobody is there: it keeps its data, and refuses writes
        redis_scene.wait_logged("(READONLY)")
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
            worker = redis_scene.workers[0]
            wait_until(lambda: "it is loading" in checks(worker)["redis"], 30, "readiness to say it")
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
        redis_scene.wait_logged("it refuses the login: ")
        assert checks(redis_scene.workers[0])["redis"] != "ok"
        time.sleep(3)
        operator.config_set("requirepass", "")


def test_wrong_password_at_the_start__exits_1_and_is_never_shown(redis_scene: Scene, own_redis: RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("requirepass", "right")
        worker = redis_scene.add_worker(REDIS_PASSWORD="hunter2-wrong")
        assert worker.wait_exit(30) == 1
        *_, last = worker.log_text().splitlines()
        assert "exit 1: " in last
        assert "it refuses the login: " in last
        assert "REDIS_PASSWORD" in last
        assert "hunter2" not in worker.log_text()
        operator.config_set("requirepass", "")


def test_wrong_type_at_one_device__is_told_and_the_others_go_on(redis_scene: Scene, own_redis: RedisServer) -> None:
    """The devices of a window go into one script call here, or two, so the others are its neighbours."""
    scene = redis_scene
    drafts = list(itertools.islice(scene.drafts(1, devices=50), 5_000))
    stranger = json.loads(drafts[0].value or b"")["device_id"]
    key = f"device:{stranger}:metadata"
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.set(key, "somebody else's")
        scene.ledger.produce(drafts)
        workers = scene.start_workers(2)
        scene.wait_caught_up()
        assert operator.get(key) == b"somebody else's"
        assert all(draft.partition == drafts[0].partition for draft in drafts if draft.key == drafts[0].key)
        assert {partition for partition, _ in told(scene.topics)} == {drafts[0].partition}
        for message in harness.consume_all(scene.topics.bootstrap, scene.topics.errors):
            error = json.loads(message.value() or b"")
            assert error["original_message"]["device_id"] == stranger
            assert (
                error["error"] == f"device_id: the Redis key {key!r} holds something that is not a hash; "
                "delete it to let the device in"
            )
            assert message.key() == error["request_id"].encode()
            assert dict(message.headers() or [])["error.type"] == b"wrong_redis_type"
        for worker in workers:
            status, body = worker.get(f"/devices/{stranger}/metadata")
            assert (status, json.loads(body)["error"]["code"]) == (404, "device_not_found")
            assert "Traceback" not in worker.log_text()
            assert worker.what_lacks() == ""
        scene.wait_logged(" wrong_redis_type")

        operator.delete(key)
        all_but_one = scene.ledger.state()
        del all_but_one.hashes[stranger]
        del all_but_one.deadlines[stranger]
        all_but_one.devices.remove(stranger)
        oracle.assert_equal_to_redis(all_but_one, operator)
        scene.rebuild()
        scene.wait_caught_up()
        scene.assert_equal_to_oracle()


@pytest.fixture
def replica(own_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A replica that follows the Redis of the scene."""
    args = ("--replicaof", "127.0.0.1", str(own_redis.port))
    with redis.Redis.from_url(own_redis.url) as operator:
        operator.config_set("repl-diskless-sync-delay", "0")
        with RedisServer(tmp_path / "replica", args=args) as server:
            wait_until(lambda: replica_count(operator) == 1, 30, "the replica to follow")
            yield server


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_durability_replica__nothing_is_committed_that_no_replica_has(
    redis_scene: Scene, own_redis: RedisServer, replica: RedisServer, how: str
) -> None:
    scene = redis_scene
    (worker,) = scene.start_workers(1, REDIS_DURABILITY="replica")
    scene.ledger.produce(itertools.islice(scene.drafts(1), 5_000))
    scene.wait_caught_up()
    replica.freeze() if how == "frozen" else replica.kill()
    committed = scene.committed()
    scene.ledger.produce(itertools.islice(scene.drafts(2), 5_000))
    scene.wait_logged("not yet at a replica (REDIS_DURABILITY)")
    with redis.Redis.from_url(own_redis.url) as operator:
        assert operator.ping()
    assert worker.get("/devices")[0] == 200
    assert scene.committed() == committed
    replica.thaw() if how == "frozen" else replica.start()
    scene.assert_nothing_lost()
    assert worker.is_running
    with redis.Redis.from_url(replica.url) as survivor:
        oracle.assert_equal_to_redis(scene.ledger.state(), survivor)


def test_durability_aof__on_a_redis_without_it_is_said(redis_scene: Scene, own_redis: RedisServer) -> None:
    """Nothing is committed then: the log names the setting, and what it needs."""
    scene = redis_scene
    with redis.Redis.from_url(own_redis.url) as operator:
        version = str(operator.info("server")["redis_version"])
        is_known = tuple(map(int, version.split(".")[:2])) >= (7, 2)
        if is_known:
            operator.config_set("appendonly", "no")
        (worker,) = scene.start_workers(1, REDIS_DURABILITY="aof")
        scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
        scene.wait_logged("REDIS_DURABILITY=aof needs Redis 7.2 or later with appendonly yes")
        assert scene.committed() == 0
        assert "Traceback" not in worker.log_text()
        assert worker.get("/health/live")[0] == 200
        if is_known:
            operator.config_set("appendonly", "yes")
        else:
            assert worker.terminate() == 1
            scene.start_workers()
    scene.assert_nothing_lost()


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
