"""Scaling: the CPU time that a million readings cost a group of 1, 2 and 4 workers.

The workers have joined before the first reading is produced, at full speed; the figure is the sum of their CPU times
from then until all is in Redis: the median over some rounds, in each of which every size of the group has its turn.
"""

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.worker import Worker
from bench.workload import Workload, produce

WORKERS: Final = (1, 2, 4)
ROUNDS: Final = 5  # a busy neighbour changes the CPU time of the same work by a tenth


def measure(endpoints: Endpoints, readings: int, repeat: int, workers: Sequence[int] = WORKERS) -> list[Figure]:
    """Measure each size of the group on the same readings, `repeat` times."""
    rounds = [[_cpu_s_per_million(endpoints, readings, count) for count in workers] for _ in range(repeat)]
    costs = [statistics.median(of_one_size) for of_one_size in zip(*rounds, strict=True)]
    figures = [
        Figure(name=f"CPU per million readings, {count} worker(s)", value=cost, unit="s")
        for count, cost in zip(workers, costs, strict=True)
    ]
    spread = max(costs) / min(costs)
    return [
        *figures,
        Figure(name="CPU per million readings: dearest / cheapest", value=spread, unit="x", goal="<= 1.15"),
    ]


def _cpu_s_per_million(endpoints: Endpoints, readings: int, worker_count: int) -> float:
    workload = Workload("scaling", readings, devices=10_000)
    topic = endpoints.create_topic(workload.name)
    group = endpoints.new_name("group")
    with ExitStack() as stack:
        client = stack.enter_context(endpoints.redis())
        client.flushdb()
        workers = [stack.enter_context(Worker.on(endpoints, topic, group)) for _ in range(worker_count)]
        for worker in workers:
            worker.wait_ready()
        before_s = sum(worker.cpu_s() for worker in workers)
        expected = produce(workload, endpoints.bootstrap_servers, topic)
        workers[0].wait_done(client, expected.sentinels, expected.sentinel_event_us)
        used_s = sum(worker.cpu_s() for worker in workers) - before_s
    return used_s / readings * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--repeat", type=int, default=ROUNDS, help="rounds")
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, arguments.readings, arguments.repeat, arguments.workers))


if __name__ == "__main__":
    main()
