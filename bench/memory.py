"""Memory: bytes in Redis per device beside the floor, and a worker's resident memory over millions of readings.

The floor is what the contract's hash and set take by themselves, without any bookkeeping or expiry.
"""

import argparse
import time

from redis import Redis

from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.rows.hand_written import decode_reading, hash_of_reading
from bench.worker import Worker
from bench.workload import Workload, hash_key, records

SETTLE_S = 2.0  # after the last flush, for what trails it


def measure(endpoints: Endpoints, *, devices: int, readings: int) -> list[Figure]:
    """Measure Redis with so many devices, and a worker that takes in so many readings of them."""
    return [*measure_redis(endpoints, devices), *measure_worker(endpoints, devices, readings)]


def measure_redis(endpoints: Endpoints, devices: int) -> list[Figure]:
    """Compare what a worker leaves of `devices` devices, each seen once, with the floor."""
    workload = Workload("memory", readings=devices, devices=None)
    with endpoints.redis() as client:
        floor = _write_floor(client, workload)
        client.flushdb()
        empty_bytes = _used_bytes(client)
        topic, expected = endpoints.produce(workload)
        with Worker.on(endpoints, topic) as worker:
            worker.wait_ready()
            worker.wait_done(client, expected.sentinels, expected.sentinel_event_us)
            time.sleep(SETTLE_S)
        ours = (_used_bytes(client) - empty_bytes) / client.scard("devices")
        client.flushdb()
    name = f"Redis memory per device at {devices:,} devices"
    return [
        Figure(name=f"{name}: all our keys", value=ours, unit="bytes", goal="<= 650 bytes"),
        Figure(name=f"{name}: floor (hash and set)", value=floor, unit="bytes"),
    ]


def _write_floor(client: Redis, workload: Workload) -> float:
    """Write the bare hashes and the bare set; return the bytes per device."""
    client.flushdb()
    empty_bytes = _used_bytes(client)
    pipeline = client.pipeline(transaction=False)
    for record in records(workload):
        reading = decode_reading(record.value)
        if reading.metadata is not None:
            pipeline.hset(hash_key(reading.device_id), mapping=hash_of_reading(reading, reading.metadata))
            pipeline.sadd("devices", reading.device_id)
        if len(pipeline) >= 10_000:
            pipeline.execute()
    pipeline.execute()
    return (_used_bytes(client) - empty_bytes) / client.scard("devices")


def _used_bytes(client: Redis) -> int:
    """Give Redis's memory without what its clients hold for the moment (Redis manual, INFO)."""
    memory = client.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"])


def measure_worker(endpoints: Endpoints, devices: int, readings: int) -> list[Figure]:
    """Sample a worker's resident memory while it drains a backlog; `flat` compares its fifths with the second one."""
    topic, expected = endpoints.produce(Workload("rss", readings, devices))
    samples: list[tuple[float, int]] = []  # readings so far, bytes
    with endpoints.redis() as client, Worker.on(endpoints, topic) as worker:
        client.flushdb()
        worker.wait_consuming()
        while not worker.is_done(client, expected.sentinels, expected.sentinel_event_us):
            samples.append((worker.counter("stream_cache_records_total"), worker.rss_bytes()))
            time.sleep(0.2)
        samples.append((readings, worker.rss_bytes()))
    name = f"worker RSS, {readings:,} readings of {devices:,} devices"
    fifths = [
        max((size for count, size in samples if fifth <= count * 5 / readings <= fifth + 1), default=0) / 1e6
        for fifth in range(5)
    ]
    figures = [
        Figure(name=f"{name}: highest", value=max(size for _, size in samples) / 1e6, unit="MB", goal="<= 200 MB")
    ]
    for number, highest in enumerate(fifths, 1):
        goal = "as in fifth 2" if number > 2 else ""
        figures.append(Figure(name=f"{name}: highest in fifth {number}", value=highest, unit="MB", goal=goal))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--readings", type=int, default=5_000_000)
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, devices=arguments.devices, readings=arguments.readings))


if __name__ == "__main__":
    main()
