"""Start and stop: from exec to a worker that takes readings in, and from SIGTERM to its end, on an idle topic.

Default settings, a new group each time, bytecode and files warm; the medians of some rounds after one that isn't
counted. The broker here makes a group without delay (`group.initial.rebalance.delay.ms=0`); a stock one adds 3 s.
"""

import argparse
import statistics
import time
from http import HTTPStatus
from http.client import HTTPException
from typing import Final, NamedTuple

from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.worker import Worker
from tests.services import ChildExitedError
from tests.waiting import wait_until

ROUNDS: Final = 7
PROBE: Final = "/health/ingest"


class Round(NamedTuple):
    """Seconds of one start and stop."""

    start_s: float
    stop_s: float


def measure(endpoints: Endpoints, rounds: int = ROUNDS) -> list[Figure]:
    """Start and stop a worker so many times."""
    with endpoints.redis() as client:
        client.flushdb()
    topic = endpoints.create_topic("startup")
    found = [_one_round(endpoints, topic) for _ in range(rounds + 1)][1:]
    return [
        Figure(
            name=f"exec -> {PROBE} 200, idle topic",
            value=statistics.median(each.start_s for each in found),
            unit="s",
            goal="<= 2.0 s",
        ),
        Figure(
            name="SIGTERM -> exit, idle",
            value=statistics.median(each.stop_s for each in found),
            unit="s",
            goal="<= 0.5 s",
        ),
    ]


def _one_round(endpoints: Endpoints, topic: str) -> Round:
    worker = Worker.on(endpoints, topic)
    began = time.perf_counter()
    with worker:
        wait_until(lambda: _answers(worker), 60, f"{PROBE} of a worker", interval_s=0.01)
        start_s = time.perf_counter() - began
        began = time.perf_counter()
        worker.process.terminate()
        exit_code = worker.wait_exit(20)
        stop_s = time.perf_counter() - began
    if exit_code:
        raise ChildExitedError(f"the worker exited with {exit_code}\n{worker.log_tail()}")
    return Round(start_s, stop_s)


def _answers(worker: Worker) -> bool:
    if not worker.is_running:
        raise ChildExitedError(f"the worker exited with {worker.exit_code}\n{worker.log_tail()}")
    try:
        return worker.get(PROBE)[0] == HTTPStatus.OK
    except (OSError, HTTPException):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, arguments.rounds))


if __name__ == "__main__":
    main()
