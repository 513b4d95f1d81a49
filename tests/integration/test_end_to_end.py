"""The main job, as a user sees it: a real worker between a real Kafka and a real Redis, held against the oracle."""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from confluent_kafka import Message

from tests import harness, oracle, readings
from tests.harness import RedisDatabase, TopicNames, Worker

TTL_S = 86_400


def to_harness(draft: readings.Draft) -> harness.Record:
    return harness.Record(draft.value, draft.key, draft.partition, draft.timestamp_ms)


def produced(topics: TopicNames, drafts: list[readings.Draft]) -> list[oracle.Record]:
    """Send the drafts, and return them as the records that they became."""
    placed = harness.produce(topics.bootstrap, topics.source, map(to_harness, drafts))
    return [
        oracle.Record(partition, offset, draft.timestamp_ms, draft.key, draft.value)
        for draft, (partition, offset) in zip(drafts, placed, strict=True)
    ]


def wait_until_caught_up(topics: TopicNames, timeout_s: float = 60) -> None:
    harness.wait_until(
        lambda: harness.lag(topics.bootstrap, topics.group, topics.source) == 0, timeout_s, "the lag to become 0"
    )


def source_of(message: Message) -> tuple[int, int]:
    """Where the record came from that an error record tells of: partition and offset."""
    headers: dict[str, Any] = dict(cast("list[tuple[str, bytes]]", message.headers()))
    return int(headers["source.partition"]), int(headers["source.offset"])


def error_of(message: Message) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(message.value() or b"")
    return error


def told_as_bad(topics: TopicNames) -> Counter[tuple[int, int]]:
    """Where the records came from that `iot_errors` tells of."""
    return Counter(map(source_of, harness.consume_all(topics.bootstrap, topics.errors)))


def judged_bad(records: Iterable[oracle.Record]) -> Counter[tuple[int, int]]:
    return Counter((r.partition, r.offset) for r in records if isinstance(oracle.judge(r), oracle.Bad))


def test_sixty_thousand_mixed_readings__redis_equals_the_oracle(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """Every legal shape, late, equal and bad ones: Redis, its index and `iot_errors` hold exactly what they should."""
    topic_names.create(8)
    drafts = list(readings.generate(1, 60_000, 3_000, base_ms=int(time.time() * 1000)))
    records = produced(topic_names, drafts)
    state = oracle.fold(records, ttl_s=TTL_S)
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        wait_until_caught_up(topic_names)
        oracle.assert_equal_to_redis(state, redis_db.connect())
        assert told_as_bad(topic_names) == judged_bad(records)
        stopping_since = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - stopping_since < 10
    assert harness.lag(topic_names.bootstrap, topic_names.group, topic_names.source) == 0


def test_bad_samples__each_is_told_in_words(topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path) -> None:
    """A person who reads `iot_errors` learns what was wrong, where it was, and what it said."""
    topic_names.create(1)
    samples = list(readings.bad_samples().items())
    harness.produce(topic_names.bootstrap, topic_names.source, [harness.Record(value, b"d") for _, value in samples])
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        wait_until_caught_up(topic_names)
        messages = harness.consume_all(topic_names.bootstrap, topic_names.errors)
        assert worker.terminate() == 0
    told = {source_of(message)[1]: error_of(message) for message in messages}
    assert sorted(told) == list(range(len(samples)))
    for offset, (why, value) in enumerate(samples):
        error = told[offset]
        assert error["service"] == "cache_service", why
        assert error["error"], why
        original = error["original_message"]
        assert original == ({"base64": base64.b64encode(value).decode()} if "base64" in original else json.loads(value))
    for message in messages:
        request_id = error_of(message)["request_id"]
        assert message.key() == (request_id and request_id.encode())
