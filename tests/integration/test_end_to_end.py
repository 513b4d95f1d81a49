"""The main job, as a user sees it: a real worker between a real Kafka and a real Redis, held against the oracle."""

import base64
import json
import time
from pathlib import Path

from tests import oracle, readings
from tests.harness import RedisDatabase, TopicNames, Worker

TTL_S = 86_400


def test_sixty_thousand_mixed_readings__redis_equals_the_oracle(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """Every legal shape, late, equal and bad ones: Redis, its index and `iot_errors` hold exactly what they should."""
    topic_names.create(8)
    drafts = readings.generate(1, 60_000, 3_000, base_ms=int(time.time() * 1000))
    records = topic_names.produce(list(readings.with_offsets(drafts)))
    state = oracle.fold(records, ttl_s=TTL_S)
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        oracle.assert_equal_to_redis(state, redis_db.connect())
        assert sorted(topic_names.rejected()) == state.bad
        stopping_since = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - stopping_since < 10
    topic_names.wait_caught_up(0)


def test_bad_samples__each_is_told_in_words(topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path) -> None:
    """A person who reads `iot_errors` learns what was wrong, where it was, and what it said."""
    topic_names.create(1)
    values = list(readings.bad_samples().values())
    topic_names.produce([oracle.Record(0, 0, int(time.time() * 1000), b"d", value) for value in values])
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        topic_names.wait_caught_up()
        told = topic_names.rejected()
        assert worker.terminate() == 0
    assert sorted(told) == [(0, offset) for offset in range(len(values))]
    for (_, offset), (key, error) in told.items():
        assert error["service"] == "cache_service"
        assert error["error"]
        value, original = values[offset], error["original_message"]
        assert original == ({"base64": base64.b64encode(value).decode()} if "base64" in original else json.loads(value))
        assert key == (error["request_id"] and error["request_id"].encode())
