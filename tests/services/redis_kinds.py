"""Every way in which a Redis may stand: of the oldest release, behind TLS and ACL, behind sentinels, as a Cluster."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.machine import CLONE, OPENSSL, REDIS, ensure
from tests.services.processes import Server, free_port
from tests.services.redis import RedisServer
from tests.waiting import wait_until

_SLOTS = 16384


class RedisKind(Protocol):
    """A Redis as a test sees it, whatever it is made of."""

    def env(self) -> Mapping[str, str]:
        """Return the settings that lead to it."""

    def masters(self) -> Sequence[redis.Redis]:
        """Return clients of what takes writes now, which answer bytes."""

    def stop(self) -> None:
        """Stop it."""


def connect(port: int, *, timeout_s: float = 5, **options: Any) -> redis.Redis:
    """Return a client of a server that asks for nothing."""
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), **options)


class OneRedisKind:
    """One server of the machine's release."""

    def __init__(self, directory: Path, make: Callable[[Path], RedisServer] = RedisServer) -> None:
        self.server = make(directory)
        self.server.start()

    def env(self) -> Mapping[str, str]:
        return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(self.server.port), "REDIS_DB": "3"}

    def masters(self) -> Sequence[redis.Redis]:
        return (connect(self.server.port, db=3),)

    def stop(self) -> None:
        self.server.stop()


class RunningKind:
    """A server that somebody else starts, fills and empties."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def env(self) -> Mapping[str, str]:
        return self._env

    def masters(self) -> Sequence[redis.Redis]:
        return ()

    def stop(self) -> None:
        """Leave it to whoever started it."""


class TlsRedisKind:
    """A server that speaks TLS alone, wants a client's certificate, and has a user with these rules and no other."""

    def __init__(self, directory: Path, rules: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.certificates = Certificates(directory)
        self.server = _TlsServer(directory, self.certificates)
        self.server.start()
        with self.server.connect() as admin:
            execute(admin, "ACL", "SETUSER", "cache", "reset", "on", ">pass@word/1", *rules)
            execute(admin, "ACL", "SETUSER", "default", "on", ">admin")

    def env(self) -> Mapping[str, str]:
        return {
            "REDIS_URL": f"rediss://127.0.0.1:{self.server.port}/3",
            "REDIS_USERNAME": "cache",
            "REDIS_PASSWORD": "pass@word/1",
            "REDIS_TLS_CA_FILE": str(self.certificates.ca),
            "REDIS_TLS_CERT_FILE": str(self.certificates.certificate),
            "REDIS_TLS_KEY_FILE": str(self.certificates.key),
        }

    def masters(self) -> Sequence[redis.Redis]:
        return (self.server.connect(db=3, password="admin"),)

    def stop(self) -> None:
        self.server.stop()


def acl_rules_of_the_manual(*more: str) -> Sequence[str]:
    """Return the rules that docs/redis.md calls enough."""
    text = (CLONE / "docs" / "redis.md").read_text()
    return (*text.split("```acl\n")[1].split("```")[0].split(), *more)


class Certificates:
    """An authority of its own, and a certificate of 127.0.0.1 for servers and clients."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "own.pem", "own.key"))
        ca_key, request, names = (directory / name for name in ("ca.key", "own.csr", "names.txt"))
        names.write_text("subjectAltName=IP:127.0.0.1")
        openssl = ensure(OPENSSL)
        signed = ("-out", self.certificate, "-days", "9", "-extfile", names)
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        for arguments in (
            ("req", "-x509", *new_key, "-keyout", ca_key, "-out", self.ca, "-subj", "/CN=test authority", "-days", "9"),
            ("req", *new_key, "-keyout", self.key, "-out", request, "-subj", "/CN=redis"),
            ("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", *signed),
        ):
            subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True)


class _TlsServer(RedisServer):
    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self._certificates = certificates
        super().__init__(directory)

    def launch(self) -> None:
        files = self._certificates
        tls = ["--tls-cert-file", files.certificate, "--tls-key-file", files.key, "--tls-ca-cert-file", files.ca]
        options = ["--port", 0, "--tls-port", self.port, *tls, "--bind", "127.0.0.1", "--save", "", "--databases", 64]
        self.spawn([ensure(REDIS), *map(str, options)])

    def what_lacks(self) -> str:
        try:
            self.connect().ping()
        except redis.RedisError as error:
            return str(error)
        return ""

    def connect(self, **options: Any) -> redis.Redis:
        files = self._certificates
        tls: dict[str, Any] = {
            "ssl_certfile": str(files.certificate),
            "ssl_keyfile": str(files.key),
            "ssl_ca_certs": str(files.ca),
        }
        return connect(self.port, ssl=True, **tls, **options)


class SentinelServer(Server):
    """A redis-sentinel that watches a master named `main`, with a password of its own."""

    def __init__(self, directory: Path, name: str, master_port: int) -> None:
        super().__init__(name, directory)
        self.port = free_port()
        self._master_port = master_port

    def launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / f"{self.name}.conf"
        if not config.exists():
            config.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nrequirepass sentinel\n"
                f"sentinel sentinel-pass sentinel\n"
                f"sentinel monitor main 127.0.0.1 {self._master_port} 2\nsentinel down-after-milliseconds main 1500\n"
                "sentinel failover-timeout main 6000\n"
            )
        program = ensure(REDIS).replace("redis-server", "redis-sentinel")
        self.spawn([program, str(config)])

    def connect(self) -> redis.Redis:
        return connect(self.port, timeout_s=1, password="sentinel", decode_responses=True)

    def what_lacks(self) -> str:
        try:
            state = _ask(self.connect(), "SENTINEL", "MASTER", "main")
        except redis.RedisError as error:
            return str(error)
        info = dict(zip(state[::2], state[1::2], strict=True)) if isinstance(state, list) else state
        if int(info["num-other-sentinels"]) != 2:
            return "the sentinels don't know each other"
        return "" if int(info["num-slaves"]) == 2 else "the replicas are not known"


class SentinelKind:
    """Three servers, of which one is the master, and three sentinels."""

    def __init__(self, directory: Path, *, args: Sequence[str] = ()) -> None:
        self.servers = [RedisServer(directory / "0", args=args)]
        replica_of = ("--replicaof", f"127.0.0.1 {self.servers[0].port}")
        self.servers += [RedisServer(directory / str(number), args=(*args, *replica_of)) for number in (1, 2)]
        for server in self.servers:
            server.start()
        self.sentinels = [SentinelServer(directory, f"sentinel{n}", self.servers[0].port) for n in range(3)]
        for sentinel in self.sentinels:
            sentinel.launch()
        for sentinel in self.sentinels:
            sentinel.wait_ready(30)

    def env(self) -> Mapping[str, str]:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return {"REDIS_URL": f"redis+sentinel://{hosts}/main/3", "REDIS_SENTINEL_PASSWORD": "sentinel"}

    def master(self) -> RedisServer:
        """Return the server that most of the sentinels name."""
        answers: list[int] = []
        for sentinel in self.sentinels:
            with suppress(redis.RedisError):
                found = _ask(sentinel.connect(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
                answers.append(int(found[1]))
        port = max(set(answers), key=answers.count)
        return next(server for server in self.servers if server.port == port)

    def masters(self) -> Sequence[redis.Redis]:
        return (connect(self.master().port, db=3),)

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            if server.is_running:
                server.kill()


class ClusterKind:
    """Three masters, with a replica each."""

    def __init__(self, directory: Path, *, args: Sequence[str] = (), replicas: int = 1) -> None:
        self._directory, self._args = directory, args
        self.servers = [self.new_server(number) for number in range(3 * (1 + replicas))]
        for server in self.servers:
            server.start()
        first = connect(self.servers[0].port)
        for server in self.servers[1:]:
            self._meet(first, server)
        third = _SLOTS // 3 + 1
        for number, server in enumerate(self.servers[:3]):
            last = min((number + 1) * third, _SLOTS) - 1
            _ask(connect(server.port), "CLUSTER", "ADDSLOTSRANGE", number * third, last)
        for number, server in enumerate(self.servers[3:]):
            self._follow(server, self.servers[number % 3])
        self.wait_ok()

    def new_server(self, number: int) -> RedisServer:
        """Return a server that may join, not started."""
        bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1500")
        at_once = ("--repl-diskless-sync-delay", "0")  # a replica need not wait for others that might come
        options = (*bus, *at_once, "--cluster-allow-replica-migration", "no", "--databases", "1", *self._args)
        return RedisServer(self._directory / str(number), args=options)

    def join(self, server: RedisServer) -> None:
        """Let a server in, as a master of no slots."""
        self._meet(connect(self.servers[0].port), server)
        self.servers.append(server)
        self.wait_ok()

    @staticmethod
    def _meet(first: redis.Redis, server: RedisServer) -> None:
        bus_port = server._args[server._args.index("--cluster-port") + 1]
        _ask(first, "CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)

    @staticmethod
    def _follow(replica: RedisServer, master: RedisServer) -> None:
        def follows() -> bool:
            with suppress(redis.ResponseError):  # it hasn't heard of its master yet
                _ask(connect(replica.port), "CLUSTER", "REPLICATE", node_id(master))
                return True
            return False

        wait_until(follows, 20, "a replica to know its master", interval_s=0.1)

    def wait_ok(self, timeout_s: float = 30) -> None:
        """Wait until each server that runs knows all of the others, and all slots are served."""
        running = [server for server in self.servers if server.is_running]

        def is_ok() -> bool:
            for server in running:
                lines = _ask(connect(server.port, decode_responses=True), "CLUSTER", "INFO").splitlines()
                info = dict(line.split(":") for line in lines)
                if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) < len(running):
                    return False
                if connect(server.port).info("replication").get("master_link_status", "up") != "up":
                    return False
            return True

        wait_until(is_ok, timeout_s, "the Cluster to be ok", interval_s=0.1)

    def env(self) -> Mapping[str, str]:
        return {"REDIS_URL": "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])}

    def master_servers(self) -> list[RedisServer]:
        """Return the servers that run and are masters, those of no slots too."""
        running = (server for server in self.servers if server.is_running)
        return [server for server in running if connect(server.port).info("replication")["role"] == "master"]

    def masters(self) -> Sequence[redis.Redis]:
        return [connect(server.port) for server in self.master_servers()]

    def owner(self, slot: int) -> RedisServer:
        """Return the master of a slot."""
        slots: Any = _ask(connect(self.master_servers()[0].port), "CLUSTER", "SLOTS")
        port = next(master[1] for first, last, master, *_ in slots if first <= slot <= last)
        return next(server for server in self.servers if server.port == port)

    def migrate_slot(self, slot: int, to: RedisServer, *, keys_at_once: int = 10, between: Callable[[], None]) -> None:
        """Move a slot as redis-cli does: key by key; `between` is called between two steps."""
        source = self.owner(slot)
        at_source, at_target = connect(source.port), connect(to.port)
        _ask(at_target, "CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        _ask(at_source, "CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(to))
        between()
        while keys := _ask(at_source, "CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            _ask(at_source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            between()
        for client in (at_target, at_source, *self.masters()):
            _ask(client, "CLUSTER", "SETSLOT", slot, "NODE", node_id(to))

    def stop(self) -> None:
        for server in self.servers:
            if server.is_running:
                server.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def node_id(server: RedisServer) -> str:
    """Return a Cluster node's id."""
    return str(_ask(connect(server.port, decode_responses=True), "CLUSTER", "MYID"))


def _ask(client: redis.Redis, *words: Any) -> Any:
    with client:
        return execute(client, *words)


def execute(client: redis.Redis, *words: Any) -> Any:
    """Run a command for which redis-py has no typed method."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]
