"""The service as a child process, seen from outside only: its log, its HTTP, /proc, and what it leaves in Redis."""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.children import environment
from tests.bench.endpoints import Endpoints, error_topic_of
from tests.bench.rows.job import RedisAddress
from tests.services import ChildExitedError, ChildProcess, free_port
from tests.waiting import wait_until

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """A reading of both clocks: perf_counter, and the worker's CPU time so far."""

    wall_s: float
    cpu_s: float


class Worker(ChildProcess):
    """`faust -A stream_cache.app worker -l info` with the contract's environment and default settings otherwise."""

    def __init__(self, directory: Path, *, bootstrap_servers: str, redis_url: str, topic: str, group: str) -> None:
        super().__init__("worker", directory)
        self.port = free_port()
        address = RedisAddress.of(redis_url)
        self._env = environment(
            KAFKA_BOOTSTRAP_SERVERS=bootstrap_servers,
            KAFKA_VALIDATED_DATA_TOPIC=topic,
            KAFKA_ERROR_TOPIC=error_topic_of(topic),
            KAFKA_CONSUMER_GROUP_ID=group,
            REDIS_HOST=address.host,
            REDIS_PORT=str(address.port),
            REDIS_DB=str(address.database),
            REDIS_PASSWORD=address.password,
            WEB_PORT=str(self.port),
        )

    @classmethod
    def on(cls, endpoints: Endpoints, topic: str, group: str | None = None) -> "Worker":
        """Make a worker of a group, by default of a new one, on the services of a measurement."""
        return cls(
            endpoints.new_directory("worker"),
            bootstrap_servers=endpoints.bootstrap_servers,
            redis_url=endpoints.redis_url,
            topic=topic,
            group=group or endpoints.new_name("group"),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn([sys.executable, "-m", "faust", "-A", "stream_cache.app", "worker", "-l", "info"], self._env)

    def what_lacks(self) -> str:
        try:
            self.get("/health/ready")
        except OSError as error:  # urllib's errors are OSErrors, a 503 too
            return str(error)
        return ""

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    def counter(self, name: str) -> float:
        """Sum a metric over its labels; 0 while the worker doesn't answer yet."""
        try:
            lines = self.get("/metrics").splitlines()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def now(self) -> Moment:
        return Moment(time.perf_counter(), self.cpu_s())

    def wait_consuming(self, timeout_s: float = 60) -> Moment:
        """Return the last moment at which the worker had not counted a record.

        Polled every 20 ms; the earlier side of the step is taken, so an error in it is in the worker's disfavour.
        """
        before = self.now()

        def has_counted() -> bool:
            nonlocal before
            asked = self.now()
            if self.counter("stream_cache_records_total"):
                return True
            before = asked
            return not self.is_running

        wait_until(has_counted, timeout_s, "the worker's first record", interval_s=0.02)
        if not self.is_running:
            raise ChildExitedError(f"the worker exited with {self.exit_code}\n{self.log_tail()}")
        return before

    def cpu_s(self) -> float:
        """Return the user and system time so far, all threads (Linux: proc(5), fields 14 and 15 of stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
