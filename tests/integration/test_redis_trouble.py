"""A Redis that forbids, refuses or is not there: what the store does then, and in which words it says so."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from stream_cache.errors import AnswerTooLarge, StoreUnavailable
from stream_cache.store import connection as redis_connection
from tests.harness import RedisDatabase, wait_until
from tests.services import RedisServer
from tests.services.redis_kinds import RunningKind
from tests.store_bench import BASE_MS, Bench, record_of, tombstone_of

ALL_CALLS = ("flush", "state", "prune lease", "prune", "lookup", "list", "ping")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose configuration these tests change, and put back."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.acl_setuser("admin", enabled=True, passwords=["+admin"], keys=["*"], categories=["+@all"])
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """Somebody who may do anything, whatever the store's user may."""
    with redis.Redis(port=server.port, username="admin", password="admin") as admin:
        admin.flushall()
        yield admin
        set_user(admin, "on", "nopass", "~*", "+@all")


@pytest.fixture
def bench(server: RedisServer, admin: redis.Redis) -> Iterator[Bench]:
    assert admin.ping()
    bench = Bench(RunningKind(RedisDatabase.of_url(server.url, 0).env()))
    yield bench
    bench.close()


def set_user(admin: redis.Redis, *rules: str) -> None:
    """Set what the user may do that a password alone means."""
    execute: Callable[..., object] = admin.execute_command
    execute("ACL", "SETUSER", "default", *rules)


def where_of(bench: Bench) -> str:
    return f"Redis at 127.0.0.1:{bench.kind.env()['REDIS_PORT']} (REDIS_HOST, REDIS_PORT)"


def call(bench: Bench, name: str) -> object:
    """Make one of the calls that a worker makes."""
    store = bench.store
    calls: dict[str, Callable[[], object]] = {
        "flush": lambda: bench.put([record_of("d", offset=7, timestamp_ms=BASE_MS + 7), record_of("e", offset=8)]),
        "state": lambda: bench.run(store.get_state()),
        "prune lease": lambda: bench.run(store.pruning.take_lease("me", 0.01)),
        "prune": bench.scan,
        "lookup": lambda: bench.get("d"),
        "list": bench.all_ids,
        "ping": lambda: bench.run(store.ping()),
    }
    return calls[name]()


# --------------------------------------------------------------------------------------------- what Redis doesn't allow


def test_proxy_that_knows_neither_hello_nor_names__is_enough(tmp_path: Path) -> None:
    with RedisServer(tmp_path, args=("--rename-command", "CLIENT", "", "--rename-command", "HELLO", "")) as server:
        bench = Bench(RunningKind(RedisDatabase.of_url(server.url, 3).env()))
        for name in ALL_CALLS:
            call(bench, name)
        with redis.Redis(port=server.port, db=3, protocol=2, driver_info=None) as straight:
            assert straight.scard("devices") == 2
        assert sorted(bench.all_ids()) == ["d", "e"]
        bench.close()


def test_name__is_shown_where_it_may_be(bench: Bench, admin: redis.Redis) -> None:
    call(bench, "ping")
    assert "stream_cache" in {client["name"] for client in admin.client_list()}


def test_password_that_nobody_asked_for__is_no_trouble(server: RedisServer, admin: redis.Redis) -> None:
    assert admin.ping()
    bench = Bench(RunningKind(RedisDatabase.of_url(server.url).env()), REDIS_PASSWORD="hunter2")
    assert call(bench, "flush")
    bench.close()


def test_keys_that_may_not_be_touched__are_no_fault_of_the_records(bench: Bench, admin: redis.Redis) -> None:
    """They are kept back until it is allowed: not sent to the error topic, nor taken for devices that are not there."""
    bench.put([record_of("d", offset=1), record_of("f", offset=2), tombstone_of("gone", offset=3)])
    set_user(admin, "resetkeys", "~devices", "~stream_cache:*")
    for name in ("lookup", "prune"):
        with pytest.raises(StoreUnavailable):
            call(bench, name)
    records = [record_of("d", offset=7), record_of("gone", offset=2), tombstone_of("f", offset=8)]
    for some in (records[:1], records[2:]):
        with pytest.raises(StoreUnavailable, match="the user lacks a permission"):
            bench.put(some)
    set_user(admin, "~*")
    bench.put(records)
    assert bench.all_ids() == ["d"]


def test_key_that_may_not_be_touched__keeps_no_neighbour_out_of_the_index(bench: Bench, admin: redis.Redis) -> None:
    set_user(admin, "resetkeys", "~devices", "~stream_cache:*", "~device:a*")
    records = [record_of(device_id, offset=1) for device_id in ("a1", "b", "a2")]
    with pytest.raises(StoreUnavailable):
        bench.put(records)
    set_user(admin, "~*")
    bench.put(records)
    assert sorted(bench.all_ids()) == ["a1", "a2", "b"]
    assert admin.scard("devices") == 3


# ------------------------------------------------------------------------------------------------------- what is said


def words_of(bench: Bench, name: str = "flush") -> str:
    with pytest.raises(StoreUnavailable) as raised:
        call(bench, name)
    return str(raised.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (socket.EAI_NONAME, "name not known"),
        (socket.EAI_AGAIN, "name lookup failed: Temporary failure in name resolution"),
    ],
)
def test_wrong_host__is_named(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "Temporary failure in name resolution")

    bench = Bench(RunningKind({"REDIS_HOST": "nosuch", "REDIS_PORT": "6379"}))
    bench.runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)  # uvloop would ask this machine's resolver
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ALL_CALLS:
        assert words_of(bench, name) == f"Redis at nosuch:6379 (REDIS_HOST, REDIS_PORT): {words}"
    bench.close()


def test_port_at_which_something_else_listens__is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            for _ in range(3):
                connection, _ = other.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        bench = Bench(RunningKind({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}))
        assert words_of(bench, "ping").startswith(
            f"Redis at 127.0.0.1:{port} (REDIS_HOST, REDIS_PORT): what answers there is not Redis: "
        )
        bench.close()


def test_wrong_db__is_named(server: RedisServer, admin: redis.Redis) -> None:
    assert admin.ping()
    bench = Bench(RunningKind(RedisDatabase.of_url(server.url, 99).env()))
    for name in ALL_CALLS:
        expected = f"Redis at 127.0.0.1:{server.port} (REDIS_HOST, REDIS_PORT): DB index is out of range (REDIS_DB)"
        assert words_of(bench, name) == expected
    bench.close()


def test_redis_that_refuses_writes__says_why_in_its_own_words_and_goes_on_answering(
    bench: Bench, admin: redis.Redis
) -> None:
    bench.put([record_of("d", offset=1)])
    admin.config_set("min-replicas-to-write", "1")
    for name in ("flush", "prune lease"):
        words = f"{where_of(bench)}: it answers: NOREPLICAS Not enough good replicas to write"
        assert words_of(bench, name).startswith(words)
    assert bench.get("d")
    assert bench.all_ids() == ["d"]
    call(bench, "ping")
    admin.config_set("min-replicas-to-write", "0")
    call(bench, "flush")


def test_outage__is_one_line_whoever_notices_it_and_one_when_it_is_over(
    bench: Bench, admin: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While some calls fail and others don't: a flush that waits, and lookups that are answered."""
    monkeypatch.setattr(redis_connection, "_CALM_S", 0.3)
    caplog.set_level(logging.INFO, redis_connection.__name__)

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == redis_connection.__name__]

    admin.replicaof("127.0.0.1", 1)
    for _ in range(20):
        for name in ("flush", "state", "prune lease"):
            words_of(bench, name)
        call(bench, "lookup")
    where = where_of(bench)
    assert lines() == [f"{where}: it is a replica and takes no writes (READONLY); readings wait"]
    admin.replicaof("NO", "ONE")

    def is_over() -> bool:
        call(bench, "state")
        return len(lines()) > 1

    call(bench, "flush")
    wait_until(is_over, 10, "the end to be said")
    assert lines()[1].startswith(f"{where}: all is well again, after ")


# -------------------------------------------------------------------------------------------------- very large answers


def test_large_answer__is_read_once_and_no_further_than_it_may_be(bench: Bench, admin: redis.Redis) -> None:
    ids = [f"d{number}" for number in range(30)]
    for number, device_id in enumerate(ids):
        bench.put([record_of(device_id, offset=number, metadata=json.dumps({"datatype_name": "x" * 900_000}))])

    def read_bytes() -> int:
        stats: Any = admin.info("stats")
        return int(stats["total_net_output_bytes"])

    admin.config_resetstat()
    found = bench.get_many(["d1", "e"] * 500)
    assert [device is not None for device in found] == [True, False] * 500
    assert read_bytes() < 3_000_000
    admin.config_resetstat()
    with pytest.raises(AnswerTooLarge):
        bench.get_many(ids)
    assert read_bytes() < 18 * 2**20
