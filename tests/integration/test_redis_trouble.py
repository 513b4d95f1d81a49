"""A Redis that has moved, forbids, refuses or is not there: what the store does then, and in which words it says so."""

import asyncio
import json
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from stream_cache.errors import AnswerTooLarge, StoreUnavailable
from stream_cache.store import connection as redis_connection
from tests.faults.proxy import Proxy
from tests.harness import RedisDatabase, wait_until
from tests.services import RedisServer, free_port
from tests.services.redis_kinds import RunningKind
from tests.store_bench import BASE_MS, Bench, record_of, tombstone_of

ALL_CALLS = ("flush", "state", "prune lease", "prune", "lookup", "list", "ping")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose configuration these tests change, and put back."""
    args = ("--enable-protected-configs", "yes")
    with RedisServer(tmp_path_factory.mktemp("redis"), args=args) as server, admin_of(server) as admin:
        admin.acl_setuser("admin", enabled=True, passwords=["+admin"], keys=["*"], categories=["+@all"])
        yield server


@contextmanager
def admin_of(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as admin:
        yield admin


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


def name_of(bench: Bench, device_id: str) -> Any:
    found = bench.get(device_id)
    return found and found["datatype_name"]


# ------------------------------------------------------------------------------- the master moves behind its address


@pytest.mark.parametrize("noticed_by", ["flush", "state", "prune lease"])
def test_master_that_moved_behind_its_address__is_followed_at_once(tmp_path: Path, noticed_by: str) -> None:
    """Old connections reach what is a replica now: it reads out what was, and refuses every write for ever."""
    with RedisServer(tmp_path / "old") as old, RedisServer(tmp_path / "new") as new, Proxy(old.port) as address:
        bench = Bench(RunningKind(RedisDatabase("127.0.0.1", address.port, 0, "").env()))
        straight = Bench(RunningKind(RedisDatabase.of_url(new.url).env()))
        try:
            bench.put([record_of("d", offset=1, metadata='{"datatype_name": "before"}')])

            async def look_up_side_by_side() -> None:
                await asyncio.gather(*(bench.store.get_many(["d"]) for _ in range(20)))

            bench.run(look_up_side_by_side())  # so that many connections are open
            straight.put([record_of("d", offset=2, metadata='{"datatype_name": "after"}')])
            with admin_of(old) as operator:
                operator.replicaof("127.0.0.1", 1)
            address.move_to(new.port)
            call(bench, noticed_by)
            bench.run(look_up_side_by_side())
            assert name_of(bench, "d") == ("T" if noticed_by == "flush" else "after")
            bench.put([record_of("d", offset=9, timestamp_ms=BASE_MS + 9, metadata='{"datatype_name": "later"}')])
            assert name_of(straight, "d") == "later"
        finally:
            bench.close()
            straight.close()


# --------------------------------------------------------------------------------------------- what Redis doesn't allow


@pytest.mark.parametrize("denied", [["-client"], ["-@connection", "-@admin", "-@dangerous"]], ids=" ".join)
def test_user_that_may_only_use_the_data__is_enough(bench: Bench, admin: redis.Redis, denied: list[str]) -> None:
    set_user(admin, "+@all", *denied)
    for name in ALL_CALLS:
        call(bench, name)
    assert sorted(bench.all_ids()) == ["d", "e"]
    bench.run(bench.store.set_state("ok"))
    assert bench.run(bench.store.get_state()) == "ok"


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
def test_wrong_host__is_named(monkeypatch: pytest.MonkeyPatch, redis_url: str, number: int, words: str) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "Temporary failure in name resolution")

    environ = {"REDIS_HOST": "nosuch", "REDIS_PORT": "6379"}
    bench = Bench(RunningKind(RedisDatabase.of_url(redis_url).env() | environ))
    bench.runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)  # uvloop would ask this machine's resolver
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ALL_CALLS:
        assert words_of(bench, name) == f"Redis at nosuch:6379 (REDIS_HOST, REDIS_PORT): {words}"
    bench.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_port_at_which_nobody_listens__is_named(redis_url: str, host: str) -> None:
    port = free_port()
    environ = {"REDIS_HOST": host, "REDIS_PORT": str(port)}
    bench = Bench(RunningKind(RedisDatabase.of_url(redis_url).env() | environ))
    assert words_of(bench) == f"Redis at {host}:{port} (REDIS_HOST, REDIS_PORT): connection refused"
    bench.close()


def test_port_at_which_something_else_listens__is_named(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            for _ in range(3):
                connection, _ = other.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        environ = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
        bench = Bench(RunningKind(RedisDatabase.of_url(redis_url).env() | environ))
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


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("hunter2", "invalid username-password pair or user is disabled."),
        ("", "Authentication required."),
    ],
)
def test_wrong_password__is_named_and_not_shown(
    server: RedisServer, admin: redis.Redis, password: str, words: str
) -> None:
    set_user(admin, "resetpass", ">right")
    bench = Bench(RunningKind(RedisDatabase.of_url(server.url).env()), REDIS_PASSWORD=password)
    where = f"Redis at 127.0.0.1:{server.port} (REDIS_HOST, REDIS_PORT)"
    assert words_of(bench) == f"{where}: it refuses the login: {words} (REDIS_USERNAME, REDIS_PASSWORD)"
    bench.close()


@contextmanager
def out_of_memory(admin: redis.Redis, _directory: Path) -> Iterator[None]:
    admin.config_set("maxmemory", "1")
    yield
    admin.config_set("maxmemory", "0")


@contextmanager
def replica(admin: redis.Redis, _directory: Path) -> Iterator[None]:
    admin.replicaof("127.0.0.1", 1)
    yield
    admin.replicaof("NO", "ONE")


@contextmanager
def disk_fault(admin: redis.Redis, directory: Path) -> Iterator[None]:
    """Make it unable to save: its folder has gone."""
    folder = directory / "gone"
    folder.mkdir()
    before: Any = admin.config_get("dir")
    admin.config_set("dir", str(folder))
    admin.config_set("save", "3600 1")
    shutil.rmtree(folder)
    admin.bgsave()

    def has_failed() -> bool:
        persistence: Any = admin.info("persistence")
        return bool(persistence["rdb_last_bgsave_status"] == "err")

    wait_until(has_failed, 10, "the failure to save")
    yield
    admin.config_set("save", "")
    admin.config_set("dir", before["dir"])


@contextmanager
def too_few_replicas(admin: redis.Redis, _directory: Path) -> Iterator[None]:
    admin.config_set("min-replicas-to-write", "1")
    yield
    admin.config_set("min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (out_of_memory, "it is out of memory (its maxmemory)"),
        (replica, "it is a replica and takes no writes (READONLY)"),
        (disk_fault, "it answers: MISCONF Redis is configured to save RDB snapshots"),
        (too_few_replicas, "it answers: NOREPLICAS Not enough good replicas to write"),
    ],
)
def test_redis_that_refuses_writes__says_why_and_goes_on_answering(
    bench: Bench, admin: redis.Redis, tmp_path: Path, trouble: Callable[..., Any], words: str
) -> None:
    bench.put([record_of("d", offset=1)])
    with trouble(admin, tmp_path):
        for name in ("flush", "prune lease"):
            assert words_of(bench, name).startswith(f"{where_of(bench)}: {words}")
        assert bench.get("d")
        assert bench.all_ids() == ["d"]
        call(bench, "ping")
    call(bench, "flush")


def test_outage__is_one_line_whoever_notices_it_and_one_when_it_is_over(
    bench: Bench, admin: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While some calls fail and others don't: a flush that waits, and lookups that are answered."""
    monkeypatch.setattr(redis_connection, "_CALM_S", 0.3)
    caplog.set_level(logging.INFO, redis_connection.__name__)

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == redis_connection.__name__]

    with replica(admin, tmp_path):
        for _ in range(20):
            for name in ("flush", "state", "prune lease"):
                words_of(bench, name)
            call(bench, "lookup")
        where = where_of(bench)
        assert lines() == [f"{where}: it is a replica and takes no writes (READONLY); readings wait"]

    def is_over() -> bool:
        call(bench, "state")
        return len(lines()) > 1

    call(bench, "flush")
    wait_until(is_over, 10, "the end to be said")
    assert lines()[1].startswith(f"{where}: all is well again, after ")


# ------------------------------------------------------------------------------------------------------------ eviction


@pytest.mark.parametrize(
    ("policy", "denied", "is_warned"),
    [("allkeys-lru", "", True), ("volatile-ttl", "", True), ("noeviction", "", False), ("allkeys-lru", "-info", False)],
)
def test_eviction__is_warned_of_where_the_server_tells(
    bench: Bench, admin: redis.Redis, policy: str, denied: str, *, is_warned: bool
) -> None:
    admin.config_set("maxmemory-policy", policy)
    if denied:
        set_user(admin, denied)
    try:
        warnings = bench.run(bench.store.check())
    finally:
        admin.config_set("maxmemory-policy", "noeviction")
    assert any(policy in warning for warning in warnings) == is_warned


# -------------------------------------------------------------------------------------------------- very large answers


def test_id_asked_for_many_times__is_read_once(bench: Bench, admin: redis.Redis) -> None:
    bench.put([record_of("d", offset=1, metadata=json.dumps({"datatype_name": "x" * 900_000}))])
    admin.config_resetstat()
    found = bench.get_many(["d", "e"] * 500)
    assert [device is not None for device in found] == [True, False] * 500
    stats: Any = admin.info("stats")
    assert stats["total_net_output_bytes"] < 3_000_000


def test_more_than_an_answer_may_hold__is_refused_before_it_is_read(bench: Bench, admin: redis.Redis) -> None:
    ids = [f"d{number}" for number in range(30)]
    for number, device_id in enumerate(ids):
        metadata = json.dumps({"datatype_name": f"{number}" + "x" * 900_000})
        bench.put([record_of(device_id, offset=number, metadata=metadata)])
    assert all(bench.get_many(ids[:15]))
    admin.config_resetstat()
    with pytest.raises(AnswerTooLarge):
        bench.get_many(ids)
    stats: Any = admin.info("stats")
    assert stats["total_net_output_bytes"] < 18 * 2**20

    async def look_each_up() -> list[Any]:
        return await asyncio.gather(*(bench.store.get(device_id) for device_id in ids))

    names = [device.fields["datatype_name"] for device in bench.run(look_each_up())]
    assert names == [f"{number}" + "x" * 900_000 for number in range(30)], "single lookups have answers of their own"
