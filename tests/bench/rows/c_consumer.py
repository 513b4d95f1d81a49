"""The librdkafka consumer of the two rows that use the C client directly."""

from collections.abc import Iterator
from contextlib import closing

from confluent_kafka import Consumer, KafkaException

from tests.bench.rows.job import BATCH_READINGS, Job, Stopwatch


def batches(job: Job, watch: Stopwatch, *, commit: bool) -> Iterator[list[bytes]]:
    """Yield the values of up to 5,000 records at a time until the job's count; commit each batch once it was handled.

    Commits are sent without waiting for the answer, as librdkafka's own examples advise for speed, and the last one is
    waited for. librdkafka's defaults read committed records only.
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
            if commit and missing:
                consumer.commit(asynchronous=True)
            elif commit:
                consumer.commit(asynchronous=False)
