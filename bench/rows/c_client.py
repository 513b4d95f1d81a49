"""The baseline: a hand-written loop of librdkafka, msgspec and a synchronous Redis pipeline per 5,000 readings."""

import redis

from bench.rows.c_consumer import batches
from bench.rows.hand_written import Latest, decode_reading, queue_writes
from bench.rows.job import Job, Stopwatch


def main() -> None:
    job = Job.from_argument()
    client = redis.Redis.from_url(job.redis_url)
    latest = Latest()
    watch = Stopwatch()
    for values in batches(job, watch, commit=True):
        pipeline = client.pipeline(transaction=False)
        queue_writes(pipeline, latest.winners([decode_reading(value) for value in values]))
        pipeline.execute()
    watch.stop(job.readings).tell()


if __name__ == "__main__":
    main()
