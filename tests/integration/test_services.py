"""The harness itself: what the other tests rest on."""

import sys
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, TopicPartition

from tests.harness import (
    Record,
    RedisDatabase,
    TopicNames,
    Worker,
    committed_offsets,
    end_offsets,
    lag,
    produce,
    wait_until,
    wait_until_async,
)
from tests.services import ChildExitedError, RedisServer

STUB_WORKER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health/ingest" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["WEB_PORT"])), Ready).serve_forever()
"""


def test_offsets__lag_is_what_the_group_has_not_committed(topic_names: TopicNames) -> None:
    topic_names.create(partition_count=2)
    bootstrap, source, group = topic_names.bootstrap, topic_names.source, topic_names.group
    produce(bootstrap, source, [Record(b"x", partition=index % 2) for index in range(10)])

    assert committed_offsets(bootstrap, group, source) == {}
    assert lag(bootstrap, group, source) == 10

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(source, 1, 3)], asynchronous=False)
    consumer.close()

    assert end_offsets(bootstrap, source) == {0: 5, 1: 5}
    assert committed_offsets(bootstrap, group, source) == {1: 3}
    assert lag(bootstrap, group, source) == 7


def test_redis_server__frozen_is_silent_and_a_restart_keeps_data(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="p@ss/word") as server:
        database = RedisDatabase.of_url(server.url, 5)
        with redis.Redis.from_url(database.url, socket_timeout=0.2) as impatient:
            impatient.set("kept", "yes")
            server.freeze()
            with pytest.raises(redis.TimeoutError):
                impatient.ping()
            server.thaw()
            assert impatient.ping()

        server.restart()
        with database.connect() as client:
            assert client.get("kept") == b"yes"
        server.restart(empty=True)
        with database.connect() as client:
            assert client.dbsize() == 0


def test_worker__is_waited_for_and_tells_its_exit_code(tmp_path: Path) -> None:
    with Worker(tmp_path, {}, command=(sys.executable, "-c", STUB_WORKER)) as worker:
        worker.wait_ready(10)
        assert worker.get("/elsewhere")[0] == 404
        assert worker.rss_bytes() > 1_000_000
        assert worker.terminate(10) == 7


def test_worker__that_dies_fails_at_once_with_its_log(tmp_path: Path) -> None:
    with (
        Worker(tmp_path, {}, command=(sys.executable, "-c", "print('no such setting'); exit(3)")) as worker,
        pytest.raises(ChildExitedError, match="exited with 3\nno such setting"),
    ):
        worker.wait_ready(60)


async def test_wait_until__returns_the_value_or_names_the_last() -> None:
    calls: list[str] = []

    async def third_call() -> str:
        calls.append("asked")
        return "third" if len(calls) == 3 else ""

    assert await wait_until_async(third_call, 5, "the third call", interval_s=0) == "third"
    assert await wait_until_async(lambda: 7, 5, "a plain function") == 7
    with pytest.raises(TimeoutError, match=r"waited 0 s for the impossible; the last value was \[\]"):
        wait_until(list, 0, "the impossible")
