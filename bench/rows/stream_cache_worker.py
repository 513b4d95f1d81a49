"""The service: one worker with default settings, started as its users start it and measured from outside.

Begin: the last look at `/metrics` that saw no record counted. End: the sentinels' final event times stand in Redis, so
every partition has been consumed and flushed to its end. Both are polled every 20 ms.
"""

from pathlib import Path

from redis import Redis

from bench.endpoints import topic_names
from bench.rows.job import Job, Outcome
from bench.worker import Worker
from tests.harness import RedisDatabase
from tests.services.machine import CLONE


def main() -> None:
    measure(Job.from_argument(), CLONE)


def measure(job: Job, package: Path) -> None:
    """Run the worker of the package in this folder."""
    names = topic_names(job.bootstrap_servers, job.topic, job.group)
    worker = Worker(Path(job.directory), names, RedisDatabase.of_url(job.redis_url).env(), package=package)
    with Redis.from_url(job.redis_url, decode_responses=True) as client, worker:
        begun = worker.wait_consuming()
        worker.wait_done(client, job.sentinels, job.sentinel_event_us)
        ended = worker.now()
        Outcome(readings=job.readings, seconds=ended.wall_s - begun.wall_s, cpu_s=ended.cpu_s - begun.cpu_s).tell()


if __name__ == "__main__":
    main()
