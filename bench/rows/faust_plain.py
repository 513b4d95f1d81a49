"""A Faust agent as in Faust's documentation: a Record, one table write and one awaited HSET per event.

Source: Faust user guide, "Agents" and "Tables - Stateful streams" (a table of values, written in the agent's loop), on
the memory store. It does less than the others: no TTL, no index, the last record wins whatever its event time.
"""

import os
import signal
from typing import Any

import faust
from redis.asyncio import Redis

from bench.rows.hand_written import hash_of
from bench.rows.job import Job, Stopwatch
from bench.workload import METADATA_FIELDS, PARTITIONS, hash_key


class ValidatedOutput(faust.Record, serializer="json"):
    request_id: str
    timestamp: str
    device_id: str
    values: list[Any]
    index: str | None = ""
    metadata: dict[str, Any] | None = None


def create_app(job: Job) -> faust.App:
    app = faust.App(
        job.group,
        broker=f"kafka://{job.bootstrap_servers}",
        store="memory://",
        topic_partitions=PARTITIONS,
        web_enabled=False,
        datadir=job.directory,
    )
    topic = app.topic(job.topic, value_type=ValidatedOutput)
    latest = app.Table("latest", partitions=PARTITIONS)
    client = Redis.from_url(job.redis_url)
    watch = Stopwatch()

    @app.agent(topic)
    async def keep_latest(stream: faust.StreamT[ValidatedOutput]) -> None:
        missing = job.readings
        async for reading in stream:
            watch.start()
            latest[reading.device_id] = reading.metadata
            metadata = reading.metadata or {}
            fields = hash_of(reading.timestamp, **{name: metadata.get(name) for name in METADATA_FIELDS})
            await client.hset(hash_key(reading.device_id), mapping=fields)
            missing -= 1
            if missing == 0:
                watch.stop(job.readings).tell()
                os.kill(os.getpid(), signal.SIGTERM)

    return app


if __name__ == "__main__":
    faust.Worker(create_app(Job.from_argument()), loglevel="warning").execute_from_commandline()
