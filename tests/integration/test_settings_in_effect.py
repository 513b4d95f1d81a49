"""Each setting does what it says, seen from outside on a real worker (the contract, sections 5 and 6)."""

import json
import re
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests import harness, oracle, readings
from tests.fakes import json_record
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import RedisServer

BAD = harness.Record(b"no JSON", b"bad")
TTL_S = 7200
PASSWORD = "p@ss word:/%é"


def good(device_id: str, *, partition: int | None = None, timestamp_ms: int | None = None) -> harness.Record:
    made_ms = timestamp_ms or int(time.time() * 1000)
    record = json_record(device_id, timestamp_ms=made_ms)
    return harness.Record(record.value, record.key, partition, made_ms)


def devices(database: RedisDatabase) -> set[str]:
    with database.connect() as client:
        return {member.decode() for member in client.smembers("devices")}


def has_taken(worker: Worker, count: int) -> bool:
    return metric(worker, "stream_cache_records_total") >= count


def is_held(database: RedisDatabase, device_id: str) -> bool:
    return device_id in devices(database)


def metric(worker: Worker, name: str) -> float:
    text = worker.get("/metrics")[1].decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


# ------------------------------------------------------------------------- one worker with none of the defaults


def test_settings_that_are_none_of_the_defaults__are_in_effect(topic_names: TopicNames, tmp_path: Path) -> None:
    """What the command line says of the log's level is not: the worker runs with `-l info`."""
    topics = topic_names
    topics.create(3)
    password_file = tmp_path / "password"
    password_file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    with RedisServer(tmp_path / "redis", password=PASSWORD) as redis:
        database = RedisDatabase.of_url(redis.url, 5)
        env = {
            **topics.env(),
            **database.env(),
            "REDIS_PASSWORD": "",
            "REDIS_PASSWORD_FILE": str(password_file),
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:1,{topics.bootstrap}",  # one is down
            "REDIS_METADATA_TTL": str(TTL_S),
            "LOG_LEVEL": "WARNING",
            "REDIS_PASS": PASSWORD,  # a typing error
        }
        sent_ms = int(time.time() * 1000)
        harness.produce(topics.bootstrap, topics.source, [good("a", timestamp_ms=sent_ms), BAD])
        with Worker(tmp_path / "folder", env) as worker, database.connect() as client:
            worker.wait_ready()
            topics.wait_caught_up()
            assert {name for name in client.info("keyspace") if name.startswith("db")} == {"db5"}
            assert client.pexpiretime("device:a:metadata") == sent_ms + TTL_S * 1000
            assert [value["original_message"] for _, value in topics.rejected().values()] == [
                {"base64": "bm8gSlNPTg=="}
            ]
            log = worker.log_text()
            assert " INFO " not in log
            assert log.count("REDIS_PASS (did you mean REDIS_PASSWORD?)") == 1
            assert PASSWORD not in log
            assert [path.name for path in worker.directory.iterdir()] == ["worker.log"], (
                "it leaves no file where it starts"
            )
    harness.delete_topics(topics.bootstrap, (topics.source, topics.errors))


# ----------------------------------------------------------------------------------------- poll timeout, log level


@pytest.mark.parametrize("timeout_s", ["0.1", "2.5"])
def test_poll_timeout__is_how_long_a_fetch_waits_on_an_idle_topic(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path, timeout_s: str
) -> None:
    """The debug log shows each request: so LOG_LEVEL=DEBUG is in effect too, again against `-l info`."""
    topic_names.create(1)
    harness.produce(topic_names.bootstrap, topic_names.source, [good("a")])
    env = topic_names.env() | redis_db.env() | {"KAFKA_CONSUMER_POLL_TIMEOUT_S": timeout_s, "LOG_LEVEL": "DEBUG"}
    with Worker(tmp_path, env) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        requests = wait_until(
            lambda: re.findall(r" FetchRequest_v\d+.*", worker.log_text())[:3], 30, "requests to fetch"
        )
    for request in requests:
        assert f"max_wait_time={float(timeout_s) * 1000:.0f}," in request
        assert "isolation_level=1," in request  # read_committed


# ------------------------------------------------------------------------------------------------- invalid settings


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"REDIS_PORT": "abc"}, ["REDIS_PORT", "'abc'", "1 to 65535"]),
        ({"FAUST_WEB_PORT": "7000", "WEB_PORT": "7001"}, ["FAUST_WEB_PORT", "'7000'"]),
        ({"FAUST_PRODUCER_LINGER": "soon"}, ["FAUST_PRODUCER_LINGER", "'soon'"]),
        ({"API_TOKEN": "hunter 2"}, ["API_TOKEN"]),
        ({"REDIS_URL": "redis://:hunter2@redis", "REDIS_PORT": "6379"}, ["REDIS_PORT", "REDIS_URL"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_invalid_setting__exits_1_with_one_line(tmp_path: Path, env: Mapping[str, str], words: list[str]) -> None:
    with Worker(tmp_path, env) as worker:
        assert worker.wait_exit(30) == 1
    lines = worker.log_text().splitlines()
    assert len(lines) == 1, worker.log_tail()
    for word in words:
        assert word in lines[0]
    assert "hunter" not in lines[0]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"FAUST_WEB_PORT": "abc"}, ["FAUST_WEB_PORT", "'abc'", "1 to 65535"]),
        ({"FAUST_LOOP": "no such"}, ["FAUST_LOOP", "'no such'", "aio, uvloop"]),
        ({"FAUST_WEB_PORT": "", "REDIS_HOST": "redis:6379"}, ["REDIS_HOST", "REDIS_PORT=6379"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_invalid_setting__that_faust_reads_while_it_is_imported_exits_1_with_one_line(
    tmp_path: Path, env: Mapping[str, str], words: list[str]
) -> None:
    """By the command `faust` that comes with this package; `python -m faust` goes around it."""
    command = [str(Path(sys.executable).with_name("faust")), "-A", "stream_cache.app", "worker", "-l", "info"]
    with Worker(tmp_path, env, command=command) as worker:
        assert worker.wait_exit(30) == 1
    (line,) = worker.log_text().splitlines()
    for word in words:
        assert word in line


# ------------------------------------------------------------------------------------------------------- partitions


def test_topic__may_have_many_partitions(topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path) -> None:
    topic_names.create(64)
    drafts = readings.generate(64, 2_000, 200, partitions=64, base_ms=int(time.time() * 1000))
    records = topic_names.produce(list(readings.with_offsets(drafts)))
    assert len({record.partition for record in records}) == 64
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        with redis_db.connect() as client:
            oracle.assert_equal_to_redis(oracle.fold(records, ttl_s=86_400), client)
        wait_until(lambda: metric(worker, "stream_cache_lag_records") == 0, 10, "the lag to be 0")


def test_missing_topics__are_waited_for_and_told_of(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """First the source topic comes, with a bad record in it, and then the one for errors; nothing makes them for us."""
    env = topic_names.env() | redis_db.env() | {"KAFKA_METADATA_MAX_AGE_S": "0.5"}
    with Worker(tmp_path, env) as worker:
        source = f"'{topic_names.source}' (KAFKA_VALIDATED_DATA_TOPIC) does not exist: create it"
        errors = f"'{topic_names.errors}' (KAFKA_ERROR_TOPIC) does not exist: create it"
        wait_until(lambda: source in worker.log_text() and errors in worker.log_text(), 30, "both to be named")
        wait_until(lambda: source in worker.what_lacks() and errors in worker.what_lacks(), 10, "the body to name them")
        assert worker.get("/health/live")[0] == worker.get("/health/ready")[0] == 200

        harness.create_topics(topic_names.bootstrap, {topic_names.source: 2})
        harness.produce(topic_names.bootstrap, topic_names.source, [good("a", partition=0), BAD._replace(partition=0)])
        wait_until(lambda: devices(redis_db) == {"a"}, 30, "the reading to be taken")
        checks = json.loads(worker.get("/health/ingest")[1])["checks"]
        assert (checks["source_topic"], checks["error_topic"]) == ("ok", errors)
        assert harness.committed_offsets(topic_names.bootstrap, topic_names.group, topic_names.source).get(0, 0) < 2

        harness.create_topics(topic_names.bootstrap, {topic_names.errors: 1})
        topic_names.wait_caught_up()
        worker.wait_ready(10)
        assert len(harness.consume_all(topic_names.bootstrap, topic_names.errors)) == 1
        assert worker.terminate() == 0


# ---------------------------------------------------------------------------------------------------------- flushes


def test_flush_interval__is_how_often_a_worker_flushes_that_is_behind(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """And whatever it is, a worker that has caught up flushes at once."""
    topic_names.create(4)
    sent = [
        harness.Record(draft.value, draft.key, draft.partition, draft.timestamp_ms)
        for draft in readings.realistic(1, 120_000, 500, partitions=4, base_ms=int(time.time() * 1000) - 60_000)
    ]
    harness.produce(topic_names.bootstrap, topic_names.source, sent)
    flush_counts: dict[str, float] = {}
    for interval_s in ("0.05", "30"):
        group = f"{topic_names.group}-{interval_s}"
        env = topic_names.env() | redis_db.env() | {"KAFKA_CONSUMER_GROUP_ID": group}
        env |= {"FLUSH_INTERVAL_S": interval_s, "MAX_UNACKED_READINGS": "1000000"}
        with Worker(tmp_path, env, name=f"worker-{interval_s}") as worker:
            worker.wait_ready()
            wait_until(partial(has_taken, worker, len(sent)), 60, "the end of the topic")
            wait_until(lambda: metric(worker, "stream_cache_unacked_records") == 0, 20, "the last flush")
            flush_counts[interval_s] = metric(worker, 'stream_cache_flushes_total{result="ok"}')
            began_s = time.monotonic()
            harness.produce(topic_names.bootstrap, topic_names.source, [good(f"fresh-{interval_s}")])
            wait_until(partial(is_held, redis_db, f"fresh-{interval_s}"), 20, "the fresh reading")
            assert time.monotonic() - began_s < 10  # not the 30 s of its window
            sent.append(BAD)  # one more to take for the next worker
    assert flush_counts["0.05"] > 2 * flush_counts["30"], flush_counts


# ----------------------------------------------------------------------------------------------------- transactions


def test_transactions__only_committed_records_are_read_and_the_lag_becomes_0_past_markers(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    topic_names.create(1)
    producer = Producer(
        {"bootstrap.servers": topic_names.bootstrap, "transactional.id": topic_names.group, "log_level": 3}
    )
    producer.init_transactions(30)

    def transact(*device_ids: str) -> None:
        producer.begin_transaction()
        for device_id in device_ids:
            producer.produce(topic_names.source, good(device_id).value, device_id.encode())
        producer.flush(30)

    transact("aborted-1")
    producer.abort_transaction(30)
    transact("committed-1", "committed-2")
    producer.commit_transaction(30)
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        assert devices(redis_db) == {"committed-1", "committed-2"}

        transact("pending")
        harness.produce(topic_names.bootstrap, topic_names.source, [good("behind the pending one")])
        # As `kafka-consumer-groups --describe` counts: they are there, though nobody can read them yet.
        wait_until(lambda: metric(worker, "stream_cache_lag_records") == 2, 10, "the lag to be 2")
        assert devices(redis_db) == {"committed-1", "committed-2"}

        producer.commit_transaction(30)
        wait_until(lambda: "behind the pending one" in devices(redis_db), 20, "what lay behind")
        transact("aborted-2")
        producer.abort_transaction(30)
        topic_names.wait_caught_up()
        wait_until(lambda: metric(worker, "stream_cache_lag_records") == 0, 20, "the lag to be told as 0")
        assert devices(redis_db) == {"committed-1", "committed-2", "pending", "behind the pending one"}
        assert worker.terminate() == 0


# ------------------------------------------------------------------------------------------------- what it commits


def test_caught_up_worker__has_committed_all_within_5_s(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """And begins at the earliest offset, where the group has no commits."""
    topic_names.create(2)
    harness.produce(topic_names.bootstrap, topic_names.source, [good("before the start")])
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        for number in range(3):
            harness.produce(topic_names.bootstrap, topic_names.source, [good(f"d{number}")])
            topic_names.wait_caught_up(5)
        assert devices(redis_db) == {"before the start", "d0", "d1", "d2"}
