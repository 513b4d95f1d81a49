"""What stands at the address: unfit, waited for, warned of, each in one line; and what is said of what is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from stream_cache.errors import StoreUnavailable
from stream_cache.settings import RedisSettings
from stream_cache.store.errors import UnfitServer
from stream_cache.store.store import Store
from tests.services import RedisServer, free_port
from tests.services.redis_kinds import Certificates, SentinelServer, connect, execute
from tests.store_bench import merged, record_of

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def at(port: int) -> dict[str, str]:
    return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_TIMEOUT_S": "0.5"}


def ask(environ: dict[str, str], question: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        store = Store(RedisSettings.from_env(environ))
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(run())


def check(environ: dict[str, str]) -> Sequence[str]:
    return ask(environ, lambda store: store.check())


def test_fit_server__gets_its_layout_and_no_warning(server: RedisServer) -> None:
    assert check(at(server.port)) == []
    with connect(server.port) as client:
        assert client.get("stream_cache:{devices}:layout") == b"2"
        client.set("stream_cache:{devices}:layout", "99")
        with pytest.raises(UnfitServer, match="layout b'99'"):
            check(at(server.port))
        client.flushdb()
        client.set("stream_cache:ids", "7")
        with pytest.raises(UnfitServer, match=r"version 0\.1"):
            check(at(server.port))
        client.flushdb()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_evicting_server__is_a_warning_where_the_user_may_ask(server: RedisServer, policy: str) -> None:
    with connect(server.port) as client:
        execute(client, "ACL", "SETUSER", "few", "on", ">p", "~*", "+@all", "-info")
        client.config_set("maxmemory-policy", policy)
        try:
            (warning,) = check(at(server.port))
            assert check({**at(server.port), "REDIS_USERNAME": "few", "REDIS_PASSWORD": "p"}) == []
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert policy in warning
    assert "maxmemory-policy to noeviction" in warning


def test_replica__is_waited_for(server: RedisServer) -> None:
    with connect(server.port) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(StoreUnavailable, match="it is a replica"):
                check(at(server.port))
        finally:
            client.replicaof("NO", "ONE")


def test_node_of_a_cluster__is_unfit_unless_the_url_says_cluster(tmp_path: Path, server: RedisServer) -> None:
    args = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--databases", "1")
    with RedisServer(tmp_path, args=args) as node, pytest.raises(UnfitServer, match=r"REDIS_URL=redis\+cluster://"):
        check({**at(node.port), "REDIS_DB": "0"})
    with pytest.raises(UnfitServer, match="is not a Redis Cluster"):
        check({"REDIS_URL": f"redis+cluster://127.0.0.1:{server.port}"})


def test_sentinel__is_unfit_unless_the_url_says_sentinel(tmp_path: Path, server: RedisServer) -> None:
    sentinel = SentinelServer(tmp_path, "sentinel", server.port)
    sentinel.launch()
    deadline_s = time.monotonic() + 20
    while "connection refused" in str(_error({**at(sentinel.port), "REDIS_PASSWORD": "sentinel"})):
        assert time.monotonic() < deadline_s
    with pytest.raises(UnfitServer, match=r"REDIS_URL=redis\+sentinel://"):
        check({**at(sentinel.port), "REDIS_PASSWORD": "sentinel"})
    sentinel.kill()


def _error(environ: dict[str, str]) -> Exception | None:
    try:
        check(environ)
    except (UnfitServer, StoreUnavailable) as error:
        return error
    return None


def test_unix_socket__is_a_way_in(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path, args=("--unixsocket", str(path))):
        result = ask(
            {"REDIS_URL": f"unix://{path}?db=2"}, lambda store: store.put_latest(merged([record_of("d", offset=1)]))
        )
    assert result.written_count == 1


def test_what_is_away__is_named_with_its_setting_and_its_cause(server: RedisServer, tmp_path: Path) -> None:
    port, files = free_port(), Certificates(tmp_path)
    tls = {"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": str(files.ca)}
    with connect(server.port) as client:
        execute(client, "ACL", "SETUSER", "few", "on", ">p", "~*", "+@all", "-evalsha")
    few = {"REDIS_USERNAME": "few", "REDIS_PASSWORD": "p"}
    put = [record_of("d", offset=1)]
    for environ, words in (
        (at(port), rf"Redis at 127\.0\.0\.1:{port} \(REDIS_HOST, REDIS_PORT\): connection refused"),
        ({**at(port), "REDIS_HOST": "localhost"}, rf"Redis at localhost:{port} .*: connection refused"),
        ({**at(server.port), **few}, r"lacks a permission: .*docs/redis\.md"),
        ({**at(server.port), **tls}, "TLS"),
        ({"REDIS_URL": f"redis+sentinel://127.0.0.1:{port}/main"}, "master 'main' of the sentinels 127"),
        ({"REDIS_URL": f"redis+cluster://127.0.0.1:{port}"}, "Redis Cluster at 127"),
    ):
        with pytest.raises(StoreUnavailable, match=words) as raised:
            ask(environ, lambda store: store.put_latest(merged(put)))
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("known", "hunter2", "invalid username-password pair"),
        ("", "hunter2", "invalid user"),
        ("", "", "Authentication"),
    ],
)
def test_wrong_login__is_refused_for_good_at_the_start(
    server: RedisServer, user: str, password: str, words: str
) -> None:
    with connect(server.port) as client:
        execute(client, "ACL", "SETUSER", "known", "on", ">right", "~*", "+@all")
        execute(client, "ACL", "SETUSER", "default", "resetpass", ">right")
        try:
            where = rf"Redis at 127\.0\.0\.1:{server.port} \(REDIS_HOST, REDIS_PORT\): it refuses the login: {words}"
            with pytest.raises(UnfitServer, match=rf"{where}.* \(REDIS_USERNAME, REDIS_PASSWORD\)$") as raised:
                check({**at(server.port), "REDIS_USERNAME": user, "REDIS_PASSWORD": password})
        finally:
            execute(client, "ACL", "SETUSER", "default", "nopass")
    assert "hunter2" not in str(raised.value)


def test_frozen_redis__is_unavailable_within_the_limits_and_crosses_no_answers(server: RedisServer) -> None:
    """Lookups that were given up leave no connection whose next answer belongs to another question."""
    names = [f"d{number}" for number in range(64)]

    async def run() -> None:
        store = Store(RedisSettings.from_env(at(server.port)))
        await store.put_latest(merged([record_of(n, offset=1, metadata=f'{{"datatype_name":"{n}"}}') for n in names]))
        calls: list[tuple[Callable[[], Awaitable[object]], float]] = [
            (lambda: asyncio.gather(*(store.get(name) for name in names)), 2.5),
            (lambda: store.list_devices(10, None), 2.5),
            (store.ping, 2.5),
            (lambda: store.put_latest(merged([record_of("a", offset=3)])), 2.0),
            (store.pruning.prune_due, 2.0),
        ]
        server.freeze()
        try:
            for call, limit_s in calls:
                began_s = time.monotonic()
                with pytest.raises(StoreUnavailable, match="no answer within"):
                    await call()
                assert time.monotonic() - began_s < limit_s + 0.4
        finally:
            server.thaw()
        for _ in range(3):
            found = await asyncio.gather(*(store.get(name) for name in names))
            assert [device and device.fields["datatype_name"] for device in found] == names
        await store.close()

    asyncio.run(run())
