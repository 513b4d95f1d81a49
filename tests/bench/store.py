"""The store alone, the new one beside the old one: rounds alternate, ratios are medians of the rounds'.

Run: python -m tests.bench.store [--devices 10000] [--rounds 5] [--large 1000000]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import redis

from stream_cache.models import Metadata, Reading
from stream_cache.settings import Settings
from stream_cache.store import Store as OldStore
from stream_cache.store_next.settings import RedisSettings
from stream_cache.store_next.store import Store
from tests import oracle
from tests.fakes import FakeRecord
from tests.services import RedisServer
from tests.services.redis_kinds import ClusterKind, connect

_FLUSH = 8_000  # devices that a worker under load flushes at once
_NOW_MS = int(time.time() * 1000)


class Cost(NamedTuple):
    """Of one piece of work: seconds of the clock, of this process's CPU, of all Redis processes' CPU."""

    wall_s: float
    client_s: float
    redis_s: float

    def over(self, other: "Cost") -> str:
        ratios = (mine / theirs if theirs else float("nan") for mine, theirs in zip(self, other, strict=True))
        return "wall {:.2f}  client {:.2f}  redis {:.2f}".format(*ratios)


class Subject:
    """A store on its own database, or its Cluster."""

    def __init__(self, name: str, store: Any, clients: Sequence[redis.Redis], *, is_old: bool = False) -> None:
        self.name, self.store, self.clients, self._is_old = name, store, clients, is_old

    async def put(self, readings: Sequence[Reading]) -> None:
        for start in range(0, len(readings), _FLUSH):
            some = readings[start : start + _FLUSH]
            await (self.store.put_latest(some, ()) if self._is_old else self.store.put_latest(some))

    def used_cpu_s(self) -> float:
        found = [client.info("cpu") for client in self.clients]
        return sum(float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]) for cpu in found)

    def empty(self) -> None:
        for client in self.clients:
            client.flushdb(asynchronous=True)

    async def cost(self, work: Awaitable[Any]) -> Cost:
        redis_s, wall_s, client_s = self.used_cpu_s(), time.perf_counter(), time.process_time()
        await work
        wall_s, client_s = time.perf_counter() - wall_s, time.process_time() - client_s
        return Cost(wall_s, client_s, self.used_cpu_s() - redis_s)


def make(count: int, *, at: int = 0, first: int = 0) -> list[Reading]:
    """Make a reading of each device, later by `at` ms."""
    event_time = oracle.EPOCH.replace(tzinfo=None) + timedelta(milliseconds=_NOW_MS + at, microseconds=123)
    return [
        Reading(
            f"greenhouse-{number:07d}",
            event_time,
            Metadata("4be0643f-1d98-573b-97cd-ca98a65347dd", "Temperature", "°C", persist=True),
            FakeRecord(number % 8, 1_000_000 + at * 10 + number // 8, _NOW_MS + at),
        )
        for number in range(first, first + count)
    ]


async def compare(
    title: str, subjects: Sequence[Subject], work: Callable[[Subject, int], Awaitable[Any]], rounds: int, per: int
) -> None:
    """Run the work on each subject by turns, and print what each costs and its ratio to the first one's."""
    costs: dict[str, list[Cost]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects if number % 2 else reversed(subjects):
            costs[subject.name].append(await subject.cost(work(subject, number)))
    medians = {name: Cost(*map(statistics.median, zip(*some, strict=True))) for name, some in costs.items()}
    base = medians[subjects[0].name]
    for name, cost in medians.items():
        each = "  ".join(f"{value / per * 1e6:8.2f}" for value in cost)
        print(f"{title:34} {name:16} us each (wall, client, redis): {each}   / first: {cost.over(base)}", flush=True)


def old_store(port: int, db: int) -> OldStore:
    env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_DB": str(db)}
    return OldStore.from_settings(Settings.from_env(env))


def new_store(port: int, db: int, **more: str) -> Store:
    env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_DB": str(db), **more}
    return Store(RedisSettings.from_env(env))


async def measure(folder: Path, count: int, rounds: int, large: int) -> None:
    """Print all figures."""
    with RedisServer(folder / "a") as one, RedisServer(folder / "b") as other:
        old = Subject("old", old_store(one.port, 1), [connect(one.port, db=1)], is_old=True)
        new = Subject("new", new_store(other.port, 1), [connect(other.port, db=1)])
        always = Subject(
            "new, index always", new_store(other.port, 2, OFFLINE_AFTER_S="0.001"), [connect(other.port, db=2)]
        )
        await _writes([old, new, always], count, rounds)
        await _lookups([old, new], count, rounds)
        await _bytes([old, new], min(large, 100_000))
        await _pages(always, new, large, rounds)
        with ClusterKind(folder / "cluster", replicas=0) as cluster:
            nodes = [connect(server.port) for server in cluster.servers]
            spread = Subject("Cluster of 3", Store(RedisSettings.from_env(cluster.env())), nodes)
            new.empty()
            await _writes([new, spread], count, rounds)
            await _lookups([new, spread], count, rounds)
            await spread.store.close()
        for subject in (old, new, always):
            await subject.store.close()


async def _writes(subjects: Sequence[Subject], count: int, rounds: int) -> None:
    async def put_new(subject: Subject, number: int) -> None:
        await subject.put(made[number])

    made = [make(count, first=number * count) for number in range(rounds)]
    for subject in subjects:
        subject.empty()
        await subject.put(make(100, first=-100))
    await compare("new devices", subjects, put_new, rounds, count)
    for subject in subjects:
        subject.empty()
        await subject.put(make(count))
    made = [make(count, at=1 + number) for number in range(rounds)]
    await compare("known devices", subjects, put_new, rounds, count)


async def _lookups(subjects: Sequence[Subject], count: int, rounds: int) -> None:
    names = [f"greenhouse-{number:07d}" for number in range(count)]

    async def bulk(subject: Subject, _number: int) -> None:
        for start in range(0, count, 1000):
            await subject.store.get_many(names[start : start + 1000])

    async def single(subject: Subject, _number: int) -> None:
        for name in names[:1000]:
            await subject.store.get(name)

    await compare("bulk lookup of 1,000", subjects, bulk, rounds, count)
    await compare("single lookups, one by one", subjects, single, rounds, 1000)


async def _bytes(subjects: Sequence[Subject], count: int) -> None:
    for subject in subjects:
        subject.empty()
        await asyncio.sleep(1)
        (client,) = subject.clients
        before: Any = client.info("memory")["used_memory"]
        await subject.put(make(count))
        after: Any = client.info("memory")["used_memory"]
        print(f"bytes of Redis a device at {count:,}: {subject.name}: {(after - before) / count:.0f}", flush=True)


async def _pages(small: Subject, large: Subject, size: int, rounds: int) -> None:
    for subject, count in ((small, 1_000), (large, size)):
        subject.empty()
        await subject.put(make(count))
    took: dict[str, list[float]] = {small.name: [], large.name: []}
    for number in range(rounds * 10):
        for subject in (small, large):
            cursor = None if number % 2 or subject is small else "Z3JlZW5ob3VzZS0wMDA3Nzc3"  # from the middle
            began_s = time.perf_counter()
            await subject.store.list_devices(500, cursor)
            took[subject.name].append(time.perf_counter() - began_s)
    medians = [statistics.median(some) * 1000 for some in took.values()]
    ratio = statistics.median(big / few for few, big in zip(*took.values(), strict=True))
    print(f"list page of 500: {medians[0]:.2f} ms at 1,000, {medians[1]:.2f} ms at {size:,}; {ratio:.2f}", flush=True)
    after, scanned, cpu_s, began_s = b"", 0, large.used_cpu_s(), time.perf_counter()
    while scanned < min(size, 50_000):
        _, after = await large.store.pruning.scan_ids(after)
        scanned += 500
    each_us = (large.used_cpu_s() - cpu_s) / scanned * 1e6
    wall_us = (time.perf_counter() - began_s) / scanned * 1e6
    print(f"scan of {size:,}: {wall_us:.1f} us an id, of Redis' CPU {each_us:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.devices, arguments.rounds, arguments.large))


if __name__ == "__main__":
    main()
