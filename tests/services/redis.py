"""A real redis-server."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.machine import REDIS, ensure
from tests.services.processes import Server, free_port

DATABASE_COUNT = 64


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
        self.spawn([ensure(REDIS), *flags, *self._args])

    def what_lacks(self) -> str:
        with redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
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
