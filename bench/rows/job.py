"""What a row is told, what it measures with, and how it answers."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final, Self

BATCH_READINGS: Final = 5_000  # of every hand-written row
TTL_S: Final = 86_400  # the contract's default


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run of one row: consume `readings` records of `topic` as a new group, into an empty Redis database."""

    bootstrap_servers: str
    redis_url: str  # with the number of the database
    topic: str
    group: str
    readings: int
    sentinels: list[str]  # device ids
    sentinel_event_us: int
    directory: str  # scratch, the child's working directory

    def to_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls) -> Self:
        """Read the job that the child was started with."""
        return cls(**json.loads(sys.argv[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a row measured. `cpu_s`: user and system time of the consuming process, all threads, on the same clock."""

    readings: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Readings per second."""
        return self.readings / self.seconds

    def tell(self) -> None:
        """Print the outcome as one JSON line, past anything that took over sys.stdout (Faust does)."""
        print(json.dumps(asdict(self)), file=sys.__stdout__, flush=True)


class Stopwatch:
    """Wall and CPU time from the first `start` on."""

    def __init__(self) -> None:
        self._wall_s: float | None = None
        self._cpu_s = 0.0

    def start(self) -> None:
        """Start; later calls change nothing."""
        if self._wall_s is None:
            self._wall_s = time.perf_counter()
            self._cpu_s = time.process_time()

    def stop(self, readings: int) -> Outcome:
        if self._wall_s is None:
            raise RuntimeError("stopped before it was started")
        return Outcome(
            readings=readings,
            seconds=time.perf_counter() - self._wall_s,
            cpu_s=time.process_time() - self._cpu_s,
        )
