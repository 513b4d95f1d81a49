"""A backlog into a Redis Cluster of three masters on this machine, beside one Redis, by turns.

A Cluster takes a script call for each device, and three servers share this machine's processors with the worker.
"""

import statistics
from collections.abc import Mapping
from typing import Final, NamedTuple

import redis

from bench.endpoints import Endpoints, topic_names
from bench.figures import Figure
from bench.state import first_event_us
from bench.worker import Worker
from bench.workload import Expected, Workload
from tests.harness import RedisDatabase
from tests.services.redis_kinds import ClusterKind
from tests.waiting import wait_until

ROUNDS: Final = 7
_WORKLOAD: Final = Workload("cluster", readings=1_000_000, devices=10_000)
_QUICK: Final = Workload("cluster", readings=100_000, devices=10_000)


class Run(NamedTuple):
    """What one backlog took."""

    rate: float
    cpu_us_per_device: float


def measure(endpoints: Endpoints, *, is_quick: bool) -> list[Figure]:
    """Drain the same backlog into each, by turns."""
    workload = _QUICK if is_quick else _WORKLOAD
    topic, expected = endpoints.produce(workload)
    kind = ClusterKind(endpoints.new_directory("cluster"), replicas=0)
    one: list[Run] = []
    three: list[Run] = []
    try:
        for _ in range(1 if is_quick else ROUNDS):
            with redis.Redis.from_url(endpoints.redis_url, decode_responses=True) as client:
                client.flushdb()
                env = RedisDatabase.of_url(endpoints.redis_url).env()
                one.append(_drain(endpoints, topic, workload, expected, env, client))
            for master in kind.masters():
                master.flushall()
            host = kind.servers[0]
            with redis.RedisCluster(host="127.0.0.1", port=host.port, decode_responses=True) as client:
                three.append(_drain(endpoints, topic, workload, expected, kind.env(), client))
    finally:
        kind.stop()
    ratios = [ours.rate / its.rate for ours, its in zip(three, one, strict=True)]
    name = f"backlog, 10k: Cluster of 3 / one Redis ({min(ratios):.2f} to {max(ratios):.2f})"
    return [
        Figure(name=name, value=statistics.median(ratios), unit="x", goal=">= 0.35"),
        *(
            Figure(
                name=f"worker's CPU per device written, {where}",
                value=statistics.median(run.cpu_us_per_device for run in runs),
                unit="us",
            )
            for where, runs in (("one Redis", one), ("Cluster", three))
        ),
    ]


def _drain(  # noqa: PLR0917 - a benchmark's own
    endpoints: Endpoints,
    topic: str,
    workload: Workload,
    expected: Expected,
    env: Mapping[str, str],
    client: "redis.Redis | redis.RedisCluster",
) -> Run:
    names = topic_names(endpoints.bootstrap_servers, topic, endpoints.new_name("group"))
    with Worker(endpoints.new_directory("worker"), names, env) as worker:
        begun = worker.wait_consuming()

        def is_done() -> bool:
            return first_event_us(client, expected.sentinels) >= expected.sentinel_event_us

        wait_until(is_done, 900, "the sentinels' last readings", interval_s=0.02)
        ended = worker.now()
        written = worker.counter("stream_cache_devices_total") or float("nan")
    return Run(workload.readings / (ended.wall_s - begun.wall_s), (ended.cpu_s - begun.cpu_s) / written * 1e6)
