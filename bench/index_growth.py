"""What a large index costs: a lookup, a page of the list, and a flush, with a thousand devices and with a million.

The index grows through a worker, as in production. Another worker has a small index in a Redis of its own, and at each
size both are measured by turns, for some rounds: the ratio, the median of the rounds', is one of the same minute. A
flush's cost is the CPU time, the worker's and Redis's together, of the same readings of the same thousand devices.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final, NamedTuple
from urllib.parse import quote

from redis import Redis

from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.load import Request, latencies_ms, times
from bench.lookups import single_requests
from bench.worker import Worker
from bench.workload import Workload, produce
from tests.services import RedisServer

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS: Final = 5
LOOKUPS: Final = 1_000
PAGES: Final = 50
PAGE_DEVICES: Final = 500  # the smallest index has one such page, at least
FLUSH_READINGS: Final = 50_000
HOUR_S: Final = 3_600


class _Service(NamedTuple):
    """A worker with a topic and a Redis of its own."""

    endpoints: Endpoints
    client: Redis
    worker: Worker
    topic: str

    def take_in(self, workload: Workload) -> None:
        expected = produce(workload, self.endpoints.bootstrap_servers, self.topic)
        self.worker.wait_done(self.client, expected.sentinels, expected.sentinel_event_us)

    def used_cpu_s(self) -> float:
        used = self.client.info("cpu")
        return self.worker.cpu_s() + float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def measure(endpoints: Endpoints, sizes: Sequence[int]) -> list[Figure]:
    """Measure at each size, smallest first; each figure is followed by the largest index's ratio to the small one's."""
    costs: list[dict[str, float]] = []
    with (
        RedisServer(endpoints.new_directory("redis")) as own,
        _running(dataclasses.replace(endpoints, redis_url=f"{own.url}/0", prefix=f"{endpoints.prefix}_small")) as small,
        _running(endpoints) as growing,
    ):
        small.take_in(Workload("growth", sizes[0], None))
        for number, (held, size) in enumerate(pairwise((0, *sizes))):
            growing.take_in(Workload("growth", size - held, None, first_device=held))
            rounds = [
                [_costs(service, number * ROUNDS + round_number) for service in (small, growing)]
                for round_number in range(ROUNDS)
            ]
            costs.append({name: statistics.median(large[name] for _, large in rounds) for name in rounds[0][0]})
    figures = []
    for name in costs[0]:
        figures += [
            Figure(name=f"{name}, {size:,} devices", value=cost[name], unit="s" if "CPU" in name else "ms")
            for size, cost in zip(sizes, costs, strict=True)
        ]
        ratio = statistics.median(large[name] / few[name] for few, large in rounds)
        name_of_ratio = f"{name}: {sizes[-1]:,} devices / {sizes[0]:,}"
        figures.append(Figure(name=name_of_ratio, value=ratio, unit="x", goal="0.8 to 1.2"))
    return figures


@contextmanager
def _running(endpoints: Endpoints) -> Iterator[_Service]:
    topic = endpoints.create_topic("growth")
    with endpoints.redis() as client, Worker.on(endpoints, topic) as worker:
        client.flushdb()
        worker.wait_ready()
        yield _Service(endpoints, client, worker, topic)


def _costs(service: _Service, number: int) -> dict[str, float]:
    ids = service.client.sscan_iter("devices", count=1_000)
    device_ids = [device_id for device_id, _ in zip(ids, range(2_000), strict=False)]
    lookups = latencies_ms(service.worker.url, single_requests(device_ids), while_true=times(LOOKUPS))
    pages = _page_latencies_ms(service.worker)
    before_s = service.used_cpu_s()
    service.take_in(Workload("flush", FLUSH_READINGS, 1_000, first_device=-1_000, start_s=(number + 1) * HOUR_S))
    return {
        "lookup, median": statistics.median(lookups),
        f"list page of {PAGE_DEVICES}, median": statistics.median(pages),
        f"CPU of {FLUSH_READINGS:,} readings": service.used_cpu_s() - before_s,
    }


def _page_latencies_ms(worker: Worker) -> list[float]:
    """Walk the list, from the start again when it ends; its last page, which isn't full, doesn't count."""
    found: list[float] = []
    cursor: str | None = None
    while len(found) < PAGES:
        path = f"/devices?limit={PAGE_DEVICES}" + (f"&cursor={quote(cursor)}" if cursor else "")
        took_ms = latencies_ms(worker.url, [Request(path=path)], while_true=times(1))
        page = json.loads(worker.get(path)[1])
        cursor = page["next_cursor"]
        if len(page["devices"]) == PAGE_DEVICES:
            found += took_ms
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="devices in the index, ascending")
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, arguments.sizes))


if __name__ == "__main__":
    main()
