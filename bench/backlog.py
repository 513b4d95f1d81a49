"""The backlog benchmark: how fast each row takes in what has piled up in Kafka.

Each workload is produced once. Then the rows run alternating (A, B, C, A, B, C, ...), each in its own process, with
an emptied Redis database and a consumer group of its own; after each run Redis is held against the expected state (on
mixed shapes the service's alone: the other rows may do what is wrong there). A row's rate is the median of its runs,
its ratio the median of the ratios to the baseline's run of the same round: what slows the machine down for a while
slows both.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from redis import Redis

from bench.children import environment
from bench.endpoints import Endpoints
from bench.rows import BASELINE, OURS, ROWS, Row
from bench.rows.job import Job, Outcome
from bench.state import WrongStateError, check_final
from bench.workload import Expected, Workload

TIMEOUT_S: Final = 1_200

FULL: Final = (
    Workload("10k", readings=1_000_000, devices=10_000),
    Workload("unique", readings=400_000, devices=None),
    Workload("10k-mixed", readings=1_000_000, devices=10_000, shapes="mixed"),
    Workload("unique-mixed", readings=400_000, devices=None, shapes="mixed"),
)
QUICK: Final = (
    Workload("10k", readings=100_000, devices=10_000),
    Workload("unique", readings=40_000, devices=None),
    Workload("10k-mixed", readings=100_000, devices=10_000, shapes="mixed"),
    Workload("unique-mixed", readings=40_000, devices=None, shapes="mixed"),
)


class RowFailedError(Exception):
    """A row's process ended without an outcome; the text has the end of what it said."""


@dataclass(kw_only=True, slots=True)
class Result:
    """The runs of one row on one workload, in the order of the rounds."""

    workload: Workload
    row: Row
    runs: list[Outcome] = field(default_factory=list)
    redis_cpu_s: list[float] = field(default_factory=list)
    """What each run cost the Redis server."""
    ratios: list[float] = field(default_factory=list)
    """To the baseline's run of the same round; empty when the baseline didn't run."""
    failure: str = ""
    """Why the row was given up; empty while all goes well."""

    @property
    def rate(self) -> float:
        """Readings per second, the median."""
        return statistics.median(run.rate for run in self.runs)

    @property
    def cpu_s_per_million(self) -> float:
        return statistics.median(run.cpu_s / run.readings * 1e6 for run in self.runs)

    @property
    def redis_cpu_s_per_million(self) -> float:
        return statistics.median(
            cpu_s / run.readings * 1e6 for cpu_s, run in zip(self.redis_cpu_s, self.runs, strict=True)
        )

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None


@dataclass(kw_only=True, slots=True)
class _Backlog:
    topic: str
    readings: int
    is_even: bool
    expected: Expected


def measure(endpoints: Endpoints, workloads: Sequence[Workload], rows: Collection[str], repeat: int) -> list[Result]:
    """Run the named rows `repeat` times on each workload. A row that fails is left out from then on."""
    chosen = [row for row in ROWS if row.name in rows]
    results: list[Result] = []
    for workload in workloads:
        backlogs = {
            readings: _produce(endpoints, workload, readings)
            for readings in {_readings_of(row, workload) for row in chosen}
        }
        of_row = {row.name: Result(workload=workload, row=row) for row in chosen}
        for round_number in range(1, repeat + 1):
            for row in chosen:
                if not of_row[row.name].failure:
                    _run_once(endpoints, of_row[row.name], backlogs[_readings_of(row, workload)], round_number)
            _compare(of_row)
        results += of_row.values()
    return results


def _run_once(endpoints: Endpoints, result: Result, backlog: _Backlog, round_number: int) -> None:
    what = f"{result.workload.name}, round {round_number}: {result.row.name}"
    try:
        outcome, redis_cpu_s = run_row(endpoints, result.row, backlog)
    except (RowFailedError, WrongStateError, subprocess.TimeoutExpired) as error:
        result.failure = str(error)
        print(f"{what} failed: {error}", file=sys.stderr, flush=True)
        return
    result.runs.append(outcome)
    result.redis_cpu_s.append(redis_cpu_s)
    shown = f"{outcome.rate:,.0f} readings/s, {outcome.cpu_s:.2f} CPU s, {redis_cpu_s:.2f} of Redis"
    print(f"{what}: {shown}", file=sys.stderr, flush=True)


def run_row(endpoints: Endpoints, row: Row, backlog: _Backlog) -> tuple[Outcome, float]:
    """Run a row in a process of its own, on an empty database and as a new group, and check what it leaves.

    Returns: what it measured, and the CPU time that it cost the Redis server meanwhile, in seconds.
    """
    job = Job(
        bootstrap_servers=endpoints.bootstrap_servers,
        redis_url=endpoints.redis_url,
        topic=backlog.topic,
        group=endpoints.new_name(row.name),
        readings=backlog.readings,
        sentinels=backlog.expected.sentinels,
        sentinel_event_us=backlog.expected.sentinel_event_us,
        directory=str(endpoints.new_directory(row.name)),
    )
    with endpoints.redis() as client:
        client.flushdb()
        before_s = _redis_cpu_s(client)
        outcome = _run(row, job)
        redis_cpu_s = _redis_cpu_s(client) - before_s
        if backlog.is_even or row.name == OURS:
            check_final(client, row, backlog.expected)
    return outcome, redis_cpu_s


def _redis_cpu_s(client: Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _run(row: Row, job: Job) -> Outcome:
    child = subprocess.run(
        [sys.executable, "-m", f"bench.rows.{row.module}", job.to_argument()],
        cwd=job.directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [line for line in child.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RowFailedError(f"{row.name} exited with {child.returncode}\n{child.stdout[-2000:]}{child.stderr[-4000:]}")
    return Outcome(**json.loads(lines[-1]))


def _readings_of(row: Row, workload: Workload) -> int:
    return min(workload.readings // 10, row.readings_max) if row.readings_max else workload.readings


def _produce(endpoints: Endpoints, workload: Workload, readings: int) -> _Backlog:
    topic, expected = endpoints.produce(dataclasses.replace(workload, readings=readings))
    return _Backlog(topic=topic, readings=readings, is_even=workload.shapes == "even", expected=expected)


def _compare(of_row: dict[str, Result]) -> None:
    """Add the ratios of the round that has just ended."""
    baseline = of_row.get(BASELINE)
    if baseline is None or baseline.failure:
        return
    for result in of_row.values():
        if not result.failure:
            result.ratios.append(result.runs[-1].rate / baseline.runs[-1].rate)
