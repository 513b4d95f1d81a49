"""A plain aiokafka loop: getmany of up to 5,000 records, msgspec, an asyncio Redis pipeline, then the commit."""

import asyncio

from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis

from bench.rows.hand_written import Latest, decode_reading, queue_writes
from bench.rows.job import BATCH_READINGS, Job, Stopwatch


async def consume(job: Job) -> None:
    client = Redis.from_url(job.redis_url)
    consumer = AIOKafkaConsumer(
        job.topic,
        bootstrap_servers=job.bootstrap_servers,
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    latest = Latest()
    watch = Stopwatch()
    missing = job.readings
    await consumer.start()
    while missing > 0:
        fetched = await consumer.getmany(timeout_ms=500, max_records=BATCH_READINGS)
        if not fetched:
            continue
        watch.start()
        batch = [decode_reading(record.value) for records in fetched.values() for record in records]
        pipeline = client.pipeline(transaction=False)
        queue_writes(pipeline, latest.winners(batch))
        await pipeline.execute()
        await consumer.commit()
        missing -= len(batch)
    watch.stop(job.readings).tell()
    await consumer.stop()
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(consume(Job.from_argument()))
