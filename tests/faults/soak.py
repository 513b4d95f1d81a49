"""Faults at random for as long as is asked, under load: `python -m tests.faults.soak --minutes 10 [--seed 7]`.

Everything random follows from the seed that is printed. One line for each fault; at the end the figures, and exit code
1 when any of them is wrong.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.proxy import Proxy
from tests.faults.scene import SESSION_TIMEOUT_S, Scene, wait_ready_or_gone
from tests.harness import RedisDatabase, TopicNames, Worker
from tests.services import KafkaServer, RedisServer
from tests.services.redis import fail_over, follow

APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
PER_SECOND, DEVICES = 9_000, 20_000
#: The first worker is never killed, so that its memory tells of the whole time.
STEADY, MOST_WORKERS = 1, 3
RECOVERED_WITHIN_S = 60
#: A worker that begins with an empty heap grows to its windows' size; what comes after that is a leak.
WARM_UP_S = 60
RSS_GROWTH_BYTES = 60_000_000


class Soak:
    """One run: the scene, what may be done to it, and what has been seen."""

    def __init__(self, scene: Scene, kafka: KafkaServer, redis_server: RedisServer, address: Proxy, seed: int) -> None:
        self._scene, self._kafka, self._redis, self._address = scene, kafka, redis_server, address
        self._former_redis: RedisServer | None = None
        self._random = random.Random(seed)
        self._began_s = time.monotonic()
        self._rss_first = 0
        self.fault_count = 0
        self.wrong: list[str] = []
        self.past_flushed_count = 0

    # -------------------------------------------------------------------------------------------------------- faults

    def kill_a_worker(self) -> str:
        worker, away_s = self._mortal(), self._seconds(0, SESSION_TIMEOUT_S + 2)
        worker.kill()
        self._scene.look()
        time.sleep(away_s)
        worker.start()
        return f"kill -9 of {worker.name}, back after {away_s:.1f} s"

    def terminate_a_worker(self) -> str:
        worker = self._mortal()
        if (exit_code := worker.terminate()) != 0:
            self._note(f"{worker.name} exited with {exit_code} at SIGTERM with Redis up")
        self._scene.look()
        worker.start()
        return f"SIGTERM to {worker.name}, back at once"

    def freeze_a_worker(self) -> str:
        worker, frozen_s = self._random.choice(self._running()), self._seconds(1, SESSION_TIMEOUT_S * 3)
        worker.freeze()
        time.sleep(frozen_s)
        worker.thaw()
        return f"{worker.name} frozen for {frozen_s:.1f} s"

    def change_the_group(self) -> str:
        idle = [worker for worker in self._scene.workers if not worker.is_running]
        if idle and (len(self._running()) <= STEADY + 1 or self._random.random() < 0.5):
            idle[0].start()
            return f"{idle[0].name} joins"
        if len(self._scene.workers) < MOST_WORKERS:
            return f"{self._scene.add_worker().name} joins"
        worker = self._mortal()
        worker.terminate()
        return f"{worker.name} leaves"

    def freeze_redis(self) -> str:
        frozen_s = self._seconds(0.5, 8)
        self._redis.freeze()
        time.sleep(frozen_s)
        self._redis.thaw()
        return f"Redis frozen for {frozen_s:.1f} s"

    def kill_redis(self) -> str:
        away_s = self._seconds(0, 5)
        self._redis.kill()
        time.sleep(away_s)
        self._redis.start()
        return f"kill -9 of Redis (appendfsync always), back after {away_s:.1f} s"

    def restart_redis(self) -> str:
        self._redis.restart()
        return "Redis restarted"

    def move_redis(self) -> str:
        """Let another server take over behind the address. The old one follows it: open connections still reach it."""
        old, new = (
            self._redis,
            RedisServer(self._redis.directory.with_name(f"redis-{self.fault_count}"), args=APPEND_ONLY),
        )
        new.start()
        follow(old, new)
        fail_over(old, new, RECOVERED_WITHIN_S)
        away_s = self._seconds(0, 2)
        time.sleep(away_s)
        self._address.move_to(new.port)
        if self._former_redis:
            self._former_redis.stop()
        self._redis, self._former_redis = new, old
        return f"another Redis is the master, and {away_s:.1f} s later it is behind the address"

    def flush_scripts(self) -> str:
        with self._scene.database.connect() as client:
            client.script_flush()
        return "SCRIPT FLUSH"

    def freeze_kafka(self) -> str:
        frozen_s = self._seconds(1, 8)
        self._kafka.freeze()
        time.sleep(frozen_s)
        self._kafka.thaw()
        return f"Kafka frozen for {frozen_s:.1f} s"

    def restart_kafka(self) -> str:
        self._kafka.restart()
        return "Kafka restarted"

    # ----------------------------------------------------------------------------------------------------------- run

    def run(self, minutes: float) -> None:
        """Cause faults until the time is over, each when the group has recovered of the one before."""
        faults: dict[Callable[[], str], int] = {
            self.kill_a_worker: 5,
            self.terminate_a_worker: 3,
            self.freeze_a_worker: 3,
            self.change_the_group: 3,
            self.freeze_redis: 2,
            self.kill_redis: 2,
            self.restart_redis: 1,
            self.move_redis: 2,
            self.flush_scripts: 2,
            self.freeze_kafka: 1,
            self.restart_kafka: 1,
        }
        self._scene.start_workers(2)
        ends_s = self._began_s + minutes * 60
        with self._scene.fed(per_second=PER_SECOND, devices=DEVICES):
            while time.monotonic() < ends_s:
                time.sleep(self._seconds(0.2, 2))
                (fault,) = self._random.choices(list(faults), list(faults.values()))
                self.fault_count += 1
                print(f"{time.monotonic() - self._began_s:7.1f} s  {self.fault_count:3}  {fault()}", flush=True)
                if not self._has_recovered():
                    return
                self._scene.look()
                self._judge(is_fed=True)
        for worker in self._scene.workers:
            if not worker.is_running:
                worker.start()

    def report(self) -> bool:
        """Wait for the end of the backlog, print the figures, and tell whether all are right."""
        scene = self._scene
        try:
            scene.wait_caught_up(180)
        except TimeoutError as error:
            self._note(str(error))
        scene.look()
        self._judge(is_fed=False)
        differences = scene.differences()
        steps_back = scene.sampler.steps_back
        found = re.search(r"in (\d+) places", differences)
        rss_last = self._steady.rss_bytes()
        if self._rss_first and rss_last - self._rss_first > RSS_GROWTH_BYTES:
            self._note("the steady worker's memory grows")
        figures = {
            "faults": self.fault_count,
            "readings": scene.ledger.record_count,
            "samples": scene.sampler.sample_count,
            "wrong devices": int(found[1]) if found else 0,
            "steps back": len(steps_back),
            "committed past flushed": self.past_flushed_count,
            "worker RSS first/last": f"{self._rss_first / 1e6:.0f}/{rss_last / 1e6:.0f} MB",
            "otherwise wrong": len(self.wrong),
        }
        print("\n".join(f"{name:24}{value}" for name, value in figures.items()))
        for line in (*self.wrong, *steps_back[:5], *differences.splitlines()):
            print(f"WRONG: {line}")
        return not (self.wrong or steps_back or differences or self.past_flushed_count)

    def stop_redis(self) -> None:
        """Stop the servers that came to the address later."""
        for server in (self._redis, self._former_redis):
            if server:
                server.stop()

    @property
    def _steady(self) -> Worker:
        return self._scene.workers[0]

    def _running(self) -> list[Worker]:
        return [worker for worker in self._scene.workers if worker.is_running]

    def _mortal(self) -> Worker:
        mortal = [worker for worker in self._running() if worker is not self._steady]
        if not mortal:
            worker = self._scene.workers[STEADY]
            worker.start()
            return worker
        return self._random.choice(mortal)

    def _seconds(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def _note(self, what: str) -> None:
        self.wrong.append(f"{time.monotonic() - self._began_s:.1f} s: {what}")
        print(f"WRONG: {self.wrong[-1]}", flush=True)

    def _judge(self, *, is_fed: bool) -> None:
        for line in self._scene.past_flushed(is_fed=is_fed):
            self.past_flushed_count += 1
            print(f"WRONG: committed past flushed: {line}", flush=True)

    def _has_recovered(self) -> bool:
        """Wait until records are committed again; notice workers that are gone, or don't come back."""
        try:
            self._scene.wait_committed(PER_SECOND // 2, RECOVERED_WITHIN_S)
            for worker in self._running():
                wait_ready_or_gone(worker, RECOVERED_WITHIN_S)
        except TimeoutError as error:
            self._note(str(error))
            return False
        if not self._steady.is_running:
            self._note(f"the steady worker exited with {self._steady.exit_code}")
            return False
        if not self._rss_first and time.monotonic() - self._began_s > WARM_UP_S:
            self._rss_first = self._steady.rss_bytes()
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    directory = Path(tempfile.mkdtemp(prefix="stream-cache-soak-"))
    print(f"seed {seed}, {arguments.minutes:g} minutes, logs in {directory}", flush=True)
    with (
        KafkaServer(directory / "kafka") as kafka,
        RedisServer(directory / "redis", args=APPEND_ONLY) as redis_server,
        Proxy(redis_server.port) as address,
        Scene(
            TopicNames.unique(kafka.bootstrap_servers),
            address.before(RedisDatabase.of_url(redis_server.url)),
            directory,
            partitions=6,
        ) as scene,
    ):
        soak = Soak(scene, kafka, redis_server, address, seed)
        try:
            soak.run(arguments.minutes)
            return 0 if soak.report() else 1
        finally:
            soak.stop_redis()


if __name__ == "__main__":
    sys.exit(main())
