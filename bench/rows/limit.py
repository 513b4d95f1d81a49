"""The limit: librdkafka's consume and msgspec's decode, nothing else. What no consumer in Python can go beyond."""

from bench.rows.c_consumer import batches
from bench.rows.hand_written import decode_reading
from bench.rows.job import Job, Stopwatch


def main() -> None:
    job = Job.from_argument()
    watch = Stopwatch()
    for values in batches(job, watch, commit=False):
        for value in values:
            decode_reading(value)
    watch.stop(job.readings).tell()


if __name__ == "__main__":
    main()
