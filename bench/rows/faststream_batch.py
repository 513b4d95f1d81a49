"""A FastStream batch subscriber: up to 5,000 records, validated by pydantic, then the same pipeline as the others.

Source: FastStream documentation, "Batch Subscriber" of its Kafka (aiokafka) broker. It commits after the handler.
"""

import asyncio

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from pydantic import BaseModel  # type: ignore[import-not-found,unused-ignore]  # comes with the extra `bench` only
from redis.asyncio import Redis

from bench.rows.hand_written import Latest, queue_writes
from bench.rows.job import BATCH_READINGS, Job, Stopwatch


class Metadata(BaseModel):  # type: ignore[misc,unused-ignore]
    datatype_id: str | None = None
    datatype_name: str | None = None
    datatype_unit: str | list[str] | None = None
    persist: bool | list[bool] | None = None


class Reading(BaseModel):  # type: ignore[misc,unused-ignore]
    timestamp: str
    device_id: str
    metadata: Metadata | None = None


def create_app(job: Job) -> FastStream:
    broker = KafkaBroker(job.bootstrap_servers)
    app = FastStream(broker)
    client = Redis.from_url(job.redis_url)
    latest = Latest()
    watch = Stopwatch()
    missing = job.readings

    @broker.subscriber(  # type: ignore[untyped-decorator,unused-ignore]
        job.topic,
        group_id=job.group,
        auto_offset_reset="earliest",
        batch=True,
        max_records=BATCH_READINGS,
        ack_policy=AckPolicy.ACK,
    )
    async def keep_latest(readings: list[Reading]) -> None:
        nonlocal missing
        watch.start()
        pipeline = client.pipeline(transaction=False)
        queue_writes(pipeline, latest.winners(readings))
        await pipeline.execute()
        missing -= len(readings)
        if missing <= 0:
            watch.stop(job.readings).tell()
            app.exit()

    return app


if __name__ == "__main__":
    asyncio.run(create_app(Job.from_argument()).run())
