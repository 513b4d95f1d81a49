"""SIGTERM in the middle of the work: all is flushed with Redis up, nothing unflushed is committed with Redis down."""

import itertools
import re
import time

from tests.faults.scene import Scene, metric
from tests.harness import Worker, wait_until
from tests.services import RedisServer

BACKLOG, DEVICES = 120_000, 30_000
#: A window that ends only when something urgent happens, so that it is half full at whatever moment.
LONG_WINDOW = {"FLUSH_INTERVAL_S": "30", "MAX_UNACKED_READINGS": "20000", "REDIS_TIMEOUT_S": "0.5"}
EXIT_WITHIN_S = 10


def wait_taking(worker: Worker) -> None:
    """Wait until the worker has taken its first readings."""
    wait_until(lambda: metric(worker, 'stream_cache_records_total{result="reading"}'), 30, "readings", interval_s=0.005)


def terminated(worker: Worker) -> int:
    """End it as a supervisor does, and return its exit code. Fails when that took too long."""
    began_s = time.monotonic()
    exit_code = worker.terminate()
    assert time.monotonic() - began_s < EXIT_WITHIN_S, worker.log_tail()
    assert "did not end" not in worker.log_text(), worker.log_tail()
    return exit_code


def test_half_full_window__redis_up__flushes_and_commits_all_it_took(scene: Scene) -> None:
    scene.ledger.produce(itertools.islice(scene.drafts(1, devices=DEVICES), BACKLOG))
    for _ in range(2):
        (worker,) = scene.start_workers(**LONG_WINDOW)
        wait_taking(worker)
        assert terminated(worker) == 0, worker.log_tail()
        assert scene.lag(), "it had caught up: no window was half full"
        assert "could not be flushed" not in worker.log_text()
        scene.look()
    scene.start_workers()
    scene.assert_nothing_lost()


def test_half_full_window__redis_down__exits_1_and_commits_nothing_unflushed(
    redis_scene: Scene, own_redis: RedisServer
) -> None:
    scene = redis_scene
    scene.ledger.produce(itertools.islice(scene.drafts(5, devices=DEVICES), BACKLOG))
    for take_away, bring_back in ((own_redis.freeze, own_redis.thaw), (own_redis.kill, own_redis.start)):
        (worker,) = scene.start_workers(**LONG_WINDOW)
        wait_taking(worker)
        take_away()
        scene.wait_logged("readings wait", by=[worker])
        assert terminated(worker) == 1, worker.log_tail()
        last = worker.log_tail(1)
        assert re.search(r" exit 1: .*\b[1-9]\d* records", last), last  # how many
        bring_back()
        scene.look()
        assert scene.lag(), "it had caught up: nothing was unflushed"
    scene.start_workers()
    scene.assert_nothing_lost()
