"""Quix Streams with its RedisSink, as in its documentation: one SET of the reading's JSON per device key.

Source: Quix Streams documentation, "Redis Sink"; all settings are its defaults, among them the checkpoint every 5 s at
which the sink writes. It does less than the others: no TTL, no index, the last record wins whatever its event time.
"""

from quixstreams import Application
from quixstreams.sinks.community.redis import RedisSink

from bench.rows.job import Job, Stopwatch
from bench.workload import hash_key
from tests.harness import RedisDatabase


def main() -> None:
    job = Job.from_argument()
    database = RedisDatabase.of_url(job.redis_url)
    watch = Stopwatch()
    app = Application(
        broker_address=job.bootstrap_servers,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        loglevel="WARNING",
        # Called after each record: the earliest that can be seen from outside without slowing the records down.
        on_message_processed=lambda _topic, _partition, _offset: watch.start(),
    )
    sink = RedisSink(
        host=database.host,
        port=database.port,
        db=database.number,
        password=database.password or None,
        key_serializer=lambda _key, value: hash_key(value["device_id"]),
    )
    app.dataframe(app.topic(job.topic)).sink(sink)
    app.run(count=job.readings, collect=False)
    watch.stop(job.readings).tell()


if __name__ == "__main__":
    main()
