"""Freshness: from the producer's call to a reading that can be read in Redis, at a steady rate and default settings.

Most readings keep the worker busy; probes between them, each with an event time of its own, are looked for in Redis
about every millisecond. The figure includes librdkafka's default linger of 5 ms and the broker.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

from confluent_kafka import Producer
from redis import Redis

from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.load import percentile
from bench.worker import Worker
from bench.workload import Record, Workload, event_us, hash_key, record_at, records, send

DEVICES: Final = 10_000
PROBES_PER_S_MAX: Final = 50
PROBE_DEVICES: Final = 500
WARM_UP_S: Final = 3
PATIENCE_S: Final = 30
RATES: Final = (5_000, 10)
GOALS: Final = {5_000: ("<= 100 ms", "<= 300 ms"), 10: ("<= 30 ms", "")}


def measure(endpoints: Endpoints, rate: int, seconds: int) -> list[Figure]:
    """Measure at `rate` readings a second for so many seconds, after a warm-up."""
    with endpoints.redis() as client:
        client.flushdb()
        topic = endpoints.create_topic("freshness")
        with Worker.on(endpoints, topic) as worker:
            worker.wait_ready()
            prober = _Prober(endpoints, topic, client, rate)
            prober.run(WARM_UP_S)
            prober.latencies_ms.clear()
            prober.run(seconds)
            prober.close()
    found = prober.latencies_ms
    goals = GOALS.get(rate, ("", ""))
    name = f"freshness at {rate:,} readings/s, {len(found)} probes"
    return [
        Figure(name=f"{name}: p50", value=percentile(found, 50), unit="ms", goal=goals[0]),
        Figure(name=f"{name}: p99", value=percentile(found, 99), unit="ms", goal=goals[1]),
        Figure(name=f"{name}: worst", value=max(found), unit="ms"),
    ]


class _Prober:
    """Produces at a rate and looks for its probes, all in one thread: one clock, and no lock to wait for."""

    def __init__(self, endpoints: Endpoints, topic: str, client: Redis, rate: int) -> None:
        self.latencies_ms: list[float] = []
        self._producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers, "compression.type": "gzip"})
        self._topic = topic
        self._client = client
        self._rate = rate
        self._readings_per_probe = -(-rate // PROBES_PER_S_MAX)
        self._sent_count = 0
        self._background = _endless_readings()
        self._probes = _probes()
        self._awaited: dict[str, tuple[int, float]] = {}  # device -> its probe's event time and moment of sending

    def run(self, seconds: float) -> None:
        """Produce for so long, then wait for the last probes.

        Raises: TimeoutError when a probe doesn't come.
        """
        begun_s = time.perf_counter()
        sent_before = self._sent_count
        while (passed_s := time.perf_counter() - begun_s) < seconds or self._awaited:
            if passed_s > seconds + PATIENCE_S:
                raise TimeoutError(f"{len(self._awaited)} probes were not readable after {PATIENCE_S} s")
            due = sent_before + int(min(passed_s, seconds) * self._rate)
            while self._sent_count < due:
                self._send_next()
            self._producer.poll(0)
            self._look()
            time.sleep(0.0005)

    def close(self) -> None:
        self._producer.flush()

    def _send_next(self) -> None:
        is_probe = self._sent_count % self._readings_per_probe == 0
        self._sent_count += 1
        if not is_probe:
            send(self._producer, self._topic, next(self._background))
            return
        probe = next(self._probes)
        self._awaited[probe.device_id] = (probe.event_us, time.perf_counter())
        send(self._producer, self._topic, probe)

    def _look(self) -> None:
        if not self._awaited:
            return
        asked = list(self._awaited)
        pipeline = self._client.pipeline(transaction=False)
        for device_id in asked:
            pipeline.hget(hash_key(device_id), "last_updated")
        answers = pipeline.execute()
        seen_s = time.perf_counter()
        for device_id, text in zip(asked, answers, strict=True):
            wanted_us, sent_s = self._awaited[device_id]
            if text is not None and event_us(text) >= wanted_us:
                self.latencies_ms.append((seen_s - sent_s) * 1e3)
                del self._awaited[device_id]


def _endless_readings() -> Iterator[Record]:
    for number in count():
        yield from records(Workload("freshness", readings=100_000, devices=DEVICES, start_s=number * 3_600))


def _probes() -> Iterator[Record]:
    for number in count(1):
        yield record_at(f"probe-{number % PROBE_DEVICES}", number * 1_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=RATES[0], help="readings a second")
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    with running_services() as endpoints:
        print_figures(measure(endpoints, arguments.rate, arguments.seconds))


if __name__ == "__main__":
    main()
