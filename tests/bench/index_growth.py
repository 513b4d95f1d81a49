"""What a large index costs: a lookup, a page of the list, and a flush, with a thousand devices and with a million.

The index grows through a worker, as in production. A flush's cost is the CPU time, the worker's and Redis's together,
of the same readings of the same thousand devices each time.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from urllib.parse import quote

from redis import Redis

from tests.bench.endpoints import Endpoints, running_services
from tests.bench.figures import Figure, print_figures
from tests.bench.load import Request, latencies_ms, times
from tests.bench.lookups import single_requests
from tests.bench.worker import Worker
from tests.bench.workload import Workload, produce

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
LOOKUPS: Final = 1_000
PAGES: Final = 50
FLUSH_READINGS: Final = 50_000
HOUR_S: Final = 3_600


def measure(endpoints: Endpoints, sizes: Sequence[int]) -> list[Figure]:
    """Measure at each size, smallest first; each figure is followed by the largest size's ratio to the smallest's."""
    topic = endpoints.create_topic("growth")
    costs: list[dict[str, float]] = []
    with endpoints.redis() as client, Worker.on(endpoints, topic) as worker:
        client.flushdb()
        worker.wait_ready()
        for number, (held, size) in enumerate(pairwise((0, *sizes))):
            fleet = Workload("growth", size - held, None, first_device=held)
            _take_in(endpoints, client, worker, topic, fleet)
            costs.append(_costs(endpoints, client, worker, topic, number))
    figures = []
    for name in costs[0]:
        figures += [
            Figure(name=f"{name}, {size:,} devices", value=cost[name], unit="s" if "CPU" in name else "ms")
            for size, cost in zip(sizes, costs, strict=True)
        ]
        ratio = costs[-1][name] / costs[0][name]
        figures.append(Figure(name=f"{name}: largest / smallest index", value=ratio, unit="x", goal="0.8 to 1.2"))
    return figures


def _take_in(endpoints: Endpoints, client: Redis, worker: Worker, topic: str, workload: Workload) -> None:
    expected = produce(workload, endpoints.bootstrap_servers, topic)
    worker.wait_done(client, expected.sentinels, expected.sentinel_event_us)


def _costs(endpoints: Endpoints, client: Redis, worker: Worker, topic: str, number: int) -> dict[str, float]:
    device_ids = [
        device_id for device_id, _ in zip(client.sscan_iter("devices", count=1_000), range(2_000), strict=False)
    ]
    lookups = latencies_ms(worker.url, single_requests(device_ids), while_true=times(LOOKUPS))
    again = Workload("flush", FLUSH_READINGS, 1_000, first_device=-1_000, start_s=(number + 1) * HOUR_S)
    before_s = worker.cpu_s() + _redis_cpu_s(client)
    _take_in(endpoints, client, worker, topic, again)
    return {
        "lookup, median": statistics.median(lookups),
        "list page of 1,000, median": statistics.median(_page_latencies_ms(worker)),
        f"CPU of {FLUSH_READINGS:,} readings": worker.cpu_s() + _redis_cpu_s(client) - before_s,
    }


def _page_latencies_ms(worker: Worker) -> list[float]:
    """Walk the list, from the start again when it ends."""
    found: list[float] = []
    cursor: str | None = None
    for _ in range(PAGES):
        path = "/devices?limit=1000" + (f"&cursor={quote(cursor)}" if cursor else "")
        found += latencies_ms(worker.url, [Request(path=path)], while_true=times(1))
        cursor = json.loads(worker.get(path)[1])["next_cursor"]
    return found


def _redis_cpu_s(client: Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="devices in the index, ascending")
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, arguments.sizes))


if __name__ == "__main__":
    main()
