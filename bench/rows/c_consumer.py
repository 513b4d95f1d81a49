"""The librdkafka consumer of the two rows that use the C client directly."""

from collections.abc import Iterator
from contextlib import closing

from confluent_kafka import Consumer, KafkaException

from bench.rows.job import BATCH_READINGS, Job, Stopwatch


def batches(job: Job, watch: Stopwatch, *, commit: bool) -> Iterator[list[bytes]]:
    """Yield the values of up to 5,000 records at a time until the job's count; commit each batch once it was handled.

    Only the last commit waits for the answer. Commits name their offsets: one without takes what is stored by the time
    that librdkafka's thread gets to it, which may be past the batch, or nothing new (the commit after it then fails
    with _NO_OFFSET: seen here). By default librdkafka reads committed records only.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": job.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    with closing(consumer):
        consumer.subscribe([job.topic])
        missing = job.readings
        while missing:
            messages = consumer.consume(min(BATCH_READINGS, missing), timeout=0.5)
            if not messages:
                continue
            watch.start()
            values: list[bytes] = []
            for message in messages:
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                if (value := message.value()) is not None:
                    values.append(value)
            missing -= len(messages)
            yield values
            if not commit:
                continue
            offsets = [place for place in consumer.position(consumer.assignment()) if place.offset >= 0]
            if missing:
                consumer.commit(offsets=offsets, asynchronous=True)
            else:
                consumer.commit(offsets=offsets, asynchronous=False)
