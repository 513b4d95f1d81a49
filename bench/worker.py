"""The service as the benchmarks see it from outside: its HTTP, its metrics, and its CPU time in /proc."""

import os
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Final, NamedTuple

from redis import Redis

from bench.endpoints import Endpoints, topic_names
from bench.state import is_final
from tests import harness
from tests.harness import RedisDatabase, TopicNames, faust_worker
from tests.services import ChildExitedError
from tests.services.machine import CLONE
from tests.waiting import wait_until

_CLOCK_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """A look at both clocks: perf_counter, and the worker's CPU time so far."""

    wall_s: float
    cpu_s: float


class Worker(harness.Worker):
    """`faust -A stream_cache.app worker -l info`, with default settings but for where Kafka and Redis are."""

    def __init__(
        self,
        directory: Path,
        topics: TopicNames,
        redis_env: Mapping[str, str],
        *,
        app: str = "stream_cache.app",
        package: Path = CLONE,
    ) -> None:
        self._holds_file = directory / "holds.txt"
        env = {**topics.env(), **redis_env, "HOLDS_FILE": str(self._holds_file), "PYTHONPATH": str(package)}
        super().__init__(directory, env, command=faust_worker(app))

    @classmethod
    def on(cls, endpoints: Endpoints, topic: str, group: str | None = None, *, is_probed: bool = False) -> "Worker":
        """Make a worker of a group, by default of a new one, on the services of a measurement."""
        names = topic_names(endpoints.bootstrap_servers, topic, group or endpoints.new_name("group"))
        app = "bench.probed_app" if is_probed else "stream_cache.app"
        return cls(endpoints.new_directory("worker"), names, RedisDatabase.of_url(endpoints.redis_url).env(), app=app)

    def holds_ms(self, begin_s: float, end_s: float) -> list[float]:
        """Return for how long the event loop was held each time, between two times; of a worker that is probed."""
        lines = (line.split() for line in self._holds_file.read_text().splitlines())
        return [float(length_ms) for at_s, length_ms in lines if begin_s < float(at_s) < end_s]

    def counter(self, name: str) -> float:
        """Sum a metric over its labels; 0 while the worker doesn't answer yet."""
        try:
            _, body = self.get("/metrics")
        except (OSError, HTTPException):
            return 0.0
        lines = body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def wait_consuming(self, timeout_s: float = 60) -> Moment:
        """Return the last moment at which the worker had not counted a record.

        Polled every 20 ms; the earlier side of the step is taken, so an error in it is in the worker's disfavour.

        Raises: TimeoutError, ChildExitedError.
        """
        before = self.now()

        def has_counted() -> bool:
            nonlocal before
            self._check_running()
            asked = self.now()
            if self.counter("stream_cache_records_total"):
                return True
            before = asked
            return False

        wait_until(has_counted, timeout_s, "the worker's first record", interval_s=0.02)
        return before

    def is_done(self, client: Redis, sentinels: Sequence[str], sentinel_event_us: int) -> bool:
        """Are the sentinels' last readings in Redis, so that every partition was consumed and flushed to its end?

        Raises: ChildExitedError.
        """
        self._check_running()
        return is_final(client, sentinels, sentinel_event_us)

    def wait_done(
        self, client: Redis, sentinels: Sequence[str], sentinel_event_us: int, timeout_s: float = 900
    ) -> None:
        """Wait until `is_done`, looking every 20 ms. Raises: TimeoutError, ChildExitedError."""
        wait_until(
            lambda: self.is_done(client, sentinels, sentinel_event_us),
            timeout_s,
            "the sentinels' last readings",
            interval_s=0.02,
        )

    def _check_running(self) -> None:
        if not self.is_running:
            raise ChildExitedError(f"the worker exited with {self.exit_code}\n{self.log_tail()}")

    def now(self) -> Moment:
        return Moment(time.perf_counter(), self.cpu_s())

    def cpu_s(self) -> float:
        """Return the user and system time so far, all threads (Linux: proc(5), fields 14 and 15 of stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S
