"""Lookups: requests per second of a worker beside the barest aiohttp handler that reads the same hashes.

Both are one process on uvloop with the same load client, by turns; the ratio is the median of the rounds' ratios. Then
the latency of one lookup after another while a worker takes in a backlog at full speed, and for how long its event loop
was held meanwhile.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from bench.bare_server import BareServer
from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.load import Request, latencies_ms, percentile, requests_per_s
from bench.worker import Worker
from bench.workload import SEED, Expected, Workload

BULK_DEVICES: Final = 1_000  # BULK_MAX_DEVICES' default
BULK_BODIES: Final = 4
SINGLE_REQUESTS: Final = 2_000
FLEET: Final = Workload("lookups", readings=30_000, devices=10_000)


def measure(endpoints: Endpoints, *, seconds: int, repeat: int, backlog_readings: int) -> list[Figure]:
    """Measure both kinds of lookup for `repeat` rounds of so many seconds each, then the latency during a backlog."""
    with endpoints.redis() as client:
        client.flushdb()
    topic, expected = endpoints.produce(FLEET)
    figures: list[Figure] = []
    with (
        Worker.on(endpoints, topic) as worker,
        BareServer(endpoints.new_directory("bare"), endpoints.redis_url) as bare,
        endpoints.redis() as client,
    ):
        worker.wait_ready()
        bare.wait_ready()
        worker.wait_done(client, expected.sentinels, expected.sentinel_event_us)
        device_ids = sorted(client.sscan_iter("devices", count=1_000))
        for name, requests in (
            ("GET /devices/{id}/metadata", single_requests(device_ids)),
            (f"bulk of {BULK_DEVICES:,} ids", bulk_requests(device_ids)),
        ):
            rounds = [
                tuple(
                    requests_per_s(server.url, requests, seconds=seconds, directory=server.directory)
                    for server in (worker, bare)
                )
                for _ in range(repeat)
            ]
            figures += _figures(name, rounds)
    return figures + measure_while_draining(endpoints, backlog_readings)


def single_requests(device_ids: Sequence[str]) -> list[Request]:
    """Make lookups of random devices."""
    chosen = random.Random(SEED).choices(device_ids, k=SINGLE_REQUESTS)
    return [Request(path=f"/devices/{quote(device_id, safe='')}/metadata") for device_id in chosen]


def bulk_requests(device_ids: Sequence[str]) -> list[Request]:
    """Make bulk lookups of a thousand random devices each."""
    rng = random.Random(SEED)
    bodies = [json.dumps({"device_ids": rng.sample(device_ids, BULK_DEVICES)}) for _ in range(BULK_BODIES)]
    return [Request(path="/devices/metadata", body=body) for body in bodies]


def _figures(name: str, rounds: Sequence[tuple[float, ...]]) -> list[Figure]:
    return [
        Figure(name=f"{name}: worker", value=statistics.median(ours for ours, _ in rounds), unit="requests/s"),
        Figure(name=f"{name}: bare handler", value=statistics.median(bare for _, bare in rounds), unit="requests/s"),
        Figure(
            name=f"{name}: ours / bare",
            value=statistics.median(ours / bare for ours, bare in rounds),
            unit="x",
            goal=">= 1.0",
        ),
    ]


def measure_while_draining(endpoints: Endpoints, readings: int) -> list[Figure]:
    """Look devices up, one request every 5 ms or more, from the first record that a new worker counts to the last."""
    topic, expected = endpoints.produce(Workload("draining", readings, FLEET.devices))
    with endpoints.redis() as client, Worker.on(endpoints, topic, is_probed=True) as worker:
        client.flushdb()
        worker.wait_consuming()
        begin_s = time.perf_counter()
        found = latencies_ms(
            worker.url,
            [Request(path="/health/live"), *_lookups_of_sample(expected)],
            while_true=lambda: not worker.is_done(client, expected.sentinels, expected.sentinel_event_us),
            pause_s=0.005,
            accepted=(200, 404),  # its first reading may yet come
        )
        holds = worker.holds_ms(begin_s, time.perf_counter())
    name = f"one lookup at a time while {readings:,} readings drain, {len(found)} requests"
    return [
        Figure(name=f"{name}: p50", value=percentile(found, 50), unit="ms"),
        Figure(name=f"{name}: p99", value=percentile(found, 99), unit="ms", goal="<= 50 ms"),
        Figure(name=f"{name}: worst", value=max(found), unit="ms"),
        Figure(name="the event loop held meanwhile: p99", value=percentile(holds, 99), unit="ms"),
        Figure(name="the event loop held meanwhile: longest", value=max(holds), unit="ms", goal="<= 20 ms"),
    ]


def _lookups_of_sample(expected: Expected) -> list[Request]:
    return [Request(path=f"/devices/{quote(device_id, safe='')}/metadata") for device_id in expected.latest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="readings that drain meanwhile")
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(
            measure(endpoints, seconds=arguments.seconds, repeat=arguments.repeat, backlog_readings=arguments.backlog)
        )


if __name__ == "__main__":
    main()
