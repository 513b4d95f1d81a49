"""Kafka freezes and restarts, the error topic refuses, and the log has gaps, aborted batches and huge records."""

import itertools
import json
import time
from functools import partial

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests import harness, oracle, readings
from tests.faults.scene import Scene, checks, has_joined, metric
from tests.harness import Worker, wait_until
from tests.services import KafkaServer

READINGS_BEFORE = 30_000


def note_topic(scene: Scene) -> None:
    """Note what a reader of committed records finds in the source topic."""
    scene.ledger.note(
        oracle.Record(
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            as_bytes(message.key()),
            as_bytes(message.value()),
        )
        for message in harness.consume_all(scene.topics.bootstrap, scene.topics.source)
    )


def as_bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def send(producer: Producer, scene: Scene, drafts: list[readings.Draft]) -> None:
    for draft in drafts:
        producer.produce(scene.topics.source, draft.value, draft.key, draft.partition, timestamp=draft.timestamp_ms)
    assert producer.flush(30) == 0


def assert_all_stayed(scene: Scene) -> None:
    assert all(worker.is_running for worker in scene.workers)
    assert [worker.what_lacks() for worker in scene.workers] == [""] * len(scene.workers)


def test_frozen_10_s(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    scene = kafka_scene
    scene.start_workers(2)
    with scene.fed():
        scene.wait_committed(READINGS_BEFORE)
        own_kafka.freeze()
        time.sleep(10)
        assert [worker.get("/health/live")[0] for worker in scene.workers] == [200, 200]
        own_kafka.thaw()
        scene.wait_committed(READINGS_BEFORE)
    scene.assert_nothing_lost()
    assert_all_stayed(scene)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_restarted(kafka_scene: Scene, own_kafka: KafkaServer, how: str) -> None:
    """The one broker is the coordinator too, which so is gone for a while."""
    scene = kafka_scene
    scene.start_workers(2)
    with scene.fed():
        scene.wait_committed(READINGS_BEFORE)
        own_kafka.stop() if how == "stopped" else own_kafka.kill()
        time.sleep(5)
        own_kafka.start()
        scene.wait_committed(READINGS_BEFORE)
    scene.assert_nothing_lost()
    assert_all_stayed(scene)


def test_away_at_the_start__is_waited_for(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    scene = kafka_scene
    own_kafka.stop()
    try:
        worker = scene.add_worker()
        scene.wait_logged("connection refused")
    finally:
        own_kafka.start()
    assert_goes_on(scene, worker)


def test_frozen_at_the_start__is_waited_for(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    """A connection is accepted, and nobody answers: for longer than one try."""
    scene = kafka_scene
    own_kafka.freeze()
    try:
        worker = scene.add_worker()
        scene.wait_logged("no answer within")
        assert worker.what_lacks()
    finally:
        own_kafka.thaw()
    assert_goes_on(scene, worker)


def assert_goes_on(scene: Scene, worker: Worker) -> None:
    worker.wait_ready()
    assert "Kafka answers, after" in worker.log_text()
    assert "Unclosed" not in worker.log_text()
    scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
    scene.assert_nothing_lost()
    assert_all_stayed(scene)


def start_with_one_bad_untold(scene: Scene) -> Worker:
    """Have a worker take 1,000 readings with a bad one among them, which the error topic refuses.

    The other partitions are committed; the bad record's stays before it, and readiness and the log say why.
    """
    worker = scene.add_worker()
    wait_until(lambda: has_joined(worker), 60, "it to join")
    drafts = list(itertools.islice(scene.drafts(1), 1_000))
    bad = drafts[500] = drafts[500]._replace(value=b"{")
    scene.ledger.produce(drafts)
    before_it = sum(draft.partition == bad.partition for draft in drafts[:500])
    after = len([draft for draft in drafts if draft.partition != bad.partition])
    wait_until(lambda: scene.committed() >= after, 30, "the other partitions to be committed")
    wait_until(lambda: checks(worker)["error_topic"] != "ok", 30, "readiness to say it")
    assert worker.get("/health/ingest")[0] == 503
    assert worker.get("/health/ready")[0] == 200
    assert worker.get("/health/live")[0] == 200
    committed = harness.committed_offsets(scene.topics.bootstrap, scene.topics.group, scene.topics.source)
    assert committed.get(bad.partition, 0) <= before_it
    scene.wait_logged("bad records wait")
    scene.assert_equal_to_oracle()  # the good ones don't wait
    return worker


def test_error_topic_missing__bad_record_is_not_committed_until_told(kafka_scene: Scene) -> None:
    scene = kafka_scene
    harness.delete_topics(scene.topics.bootstrap, [scene.topics.errors])
    start_with_one_bad_untold(scene)
    harness.create_topics(scene.topics.bootstrap, {scene.topics.errors: 1})
    scene.assert_nothing_lost()
    assert_all_stayed(scene)


def test_error_topic_refuses__bad_record_is_not_committed_until_told(kafka_scene: Scene) -> None:
    scene = kafka_scene
    scene.configure(scene.topics.errors, max_message_bytes="100")
    start_with_one_bad_untold(scene)
    scene.configure(scene.topics.errors, max_message_bytes="1000000")
    scene.assert_nothing_lost()
    assert_all_stayed(scene)


def test_error_topic_refuses__sigterm_exits_in_time(kafka_scene: Scene) -> None:
    scene = kafka_scene
    scene.configure(scene.topics.errors, max_message_bytes="100")
    worker = start_with_one_bad_untold(scene)
    began_s = time.monotonic()
    assert worker.terminate() == 1
    assert time.monotonic() - began_s < 10
    scene.configure(scene.topics.errors, max_message_bytes="1000000")
    worker.start()
    scene.assert_nothing_lost()


def has_reached(worker: Worker, series: str, count: float) -> bool:
    return metric(worker, series) >= count


def test_error_topic_refuses_many__does_not_drown_the_log(kafka_scene: Scene) -> None:
    """Bad records come one by one; the log tells of all at once."""
    scene = kafka_scene
    scene.configure(scene.topics.errors, max_message_bytes="100")
    (worker,) = scene.start_workers()
    coming = scene.drafts(1)
    scene.ledger.produce(itertools.islice(coming, 1_000))
    scene.wait_caught_up()
    taken = 'stream_cache_records_total{result="bad"}'
    for count in range(1, 31):
        scene.ledger.produce(draft._replace(value=b"{") for draft in itertools.islice(coming, 1))
        wait_until(partial(has_reached, worker, taken, count), 30, "it to be taken", interval_s=0)
    tried = 'stream_cache_errors_total{kind="error_topic"}'
    enough = metric(worker, tried) + 5
    wait_until(partial(has_reached, worker, tried, enough), 60, "it to be tried again and again")
    scene.wait_logged("30 bad records wait")
    assert worker.log_text().count("bad records wait") < 10
    scene.configure(scene.topics.errors, max_message_bytes="1000000")
    scene.assert_nothing_lost()


def test_records_of_2_mb__good_and_bad(kafka_scene: Scene) -> None:
    scene = kafka_scene
    scene.configure(scene.topics.source, max_message_bytes="4000000")
    scene.start_workers()
    plain = list(itertools.islice(scene.drafts(1, devices=100), 3_000))
    huge = json.dumps({**json.loads(plain[1000].value or b""), "values": ["x" * 2_000_000]}).encode()
    plain[1000] = plain[1000]._replace(value=huge)
    plain[2000] = plain[2000]._replace(value=b'{"request_id": "huge", "values": "' + b"y" * 2_000_000)
    big = {"message.max.bytes": 4_000_000, "bootstrap.servers": scene.topics.bootstrap}
    send(Producer(big), scene, plain)
    note_topic(scene)
    scene.assert_nothing_lost()
    (error,) = harness.consume_all(scene.topics.bootstrap, scene.topics.errors)
    original = json.loads(error.value() or b"")["original_message"]
    assert original["truncated"]
    assert original["size_bytes"] == len(plain[2000].value or b"")
    assert_all_stayed(scene)


def test_transactions__aborted_records_are_not_read_and_markers_are_no_lag(kafka_scene: Scene) -> None:
    scene = kafka_scene
    scene.start_workers()
    producer = Producer({"bootstrap.servers": scene.topics.bootstrap, "transactional.id": scene.topics.group})
    producer.init_transactions()
    coming = scene.drafts(1, devices=500)
    for round_number in range(20):
        producer.begin_transaction()
        send(producer, scene, list(itertools.islice(coming, 500)))
        producer.abort_transaction() if round_number % 2 else producer.commit_transaction()
    note_topic(scene)
    assert scene.ledger.record_count == 5_000
    scene.assert_nothing_lost()
    producer.begin_transaction()
    send(producer, scene, list(itertools.islice(coming, 500)))
    scene.look()  # an open transaction is not read
    producer.abort_transaction()
    scene.assert_nothing_lost()


def test_compacted_topic__gaps_in_offsets_are_no_lag(kafka_scene: Scene) -> None:
    scene = kafka_scene
    scene.configure(
        scene.topics.source,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        segment_bytes="1048576",
    )
    coming = scene.drafts(1, devices=50)
    harness.produce(scene.topics.bootstrap, scene.topics.source, map(to_record, itertools.islice(coming, 20_000)))

    def is_compacted() -> bool:
        # A segment closes when a record comes after its time.
        harness.produce(scene.topics.bootstrap, scene.topics.source, map(to_record, itertools.islice(coming, 20)))
        return len(harness.consume_all(scene.topics.bootstrap, scene.topics.source)) < 10_000

    wait_until(is_compacted, 90, "the log to be compacted", interval_s=0.5)
    scene.start_workers()
    note_topic(scene)
    scene.assert_nothing_lost()


def test_records_deleted_at_the_head__reading_begins_behind_them(kafka_scene: Scene) -> None:
    scene = kafka_scene
    coming = scene.drafts(1, devices=500)
    harness.produce(scene.topics.bootstrap, scene.topics.source, map(to_record, itertools.islice(coming, 5_000)))
    admin = AdminClient({"bootstrap.servers": scene.topics.bootstrap})
    ends = [TopicPartition(scene.topics.source, partition, 500) for partition in range(scene.partitions)]
    for deleted in admin.delete_records(ends).values():
        deleted.result(10)
    note_topic(scene)
    scene.start_workers()
    scene.assert_nothing_lost()


def to_record(draft: readings.Draft) -> harness.Record:
    return harness.Record(draft.value, draft.key, draft.partition, draft.timestamp_ms)
