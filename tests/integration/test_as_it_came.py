"""What people really send, as a user sees it: other JSON kept as it came, and records whose Kafka timestamp is odd."""

import time
from pathlib import Path

from tests import oracle
from tests.fakes import json_record
from tests.harness import Api, RedisDatabase, TopicNames, Worker

TTL_S = 86_400
TEXTS = {
    "datatype_id": "0.12345678901234567890123",
    "datatype_name": '{"a": 1.10,  "b":1E400}',
    "datatype_unit": '["m","\\u00b0C"]',
    "persist": "[ true ]",
}


def test_other_json__is_handed_on_exactly_and_records_without_a_timestamp_are_taken(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    topic_names.create(1)
    now_ms = int(time.time() * 1000) - 60_000
    now = oracle.time_text(now_ms * 1000)
    metadata = "{" + ",".join(f'"{name}": {text}' for name, text in TEXTS.items()) + "}"
    records = [
        json_record("exact", timestamp_ms=now_ms, metadata=metadata),
        json_record("no timestamp", timestamp_ms=-1, event_time=now),
        json_record("ahead", timestamp_ms=-1, event_time=oracle.time_text((now_ms + 7_200_000) * 1000)),
        json_record("in seconds", timestamp_ms=now_ms // 1000, event_time=now),
        json_record("1969", timestamp_ms=now_ms, event_time="1970-01-01T00:00:00+02:00"),
        oracle.Record(0, 0, -1, b"no timestamp", None),
    ]
    topic_names.produce(records)
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker, redis_db.connect() as client:
        worker.wait_ready()
        topic_names.wait_caught_up()
        answer = Api(worker).one("exact")
        assert {name: client.hget("device:exact:metadata", name) for name in TEXTS} == {
            name: text.encode() for name, text in TEXTS.items()
        }
        assert client.smembers("devices") == {b"exact", b"no timestamp"}
        left_ms = client.pttl("device:no timestamp:metadata")
        assert abs(now_ms + TTL_S * 1000 - time.time() * 1000 - left_ms) < 1000
    for name, text in TEXTS.items():
        assert f'"{name}":{text}'.encode() in answer.body
    told = {offset: value["error"] for (_, offset), (_, value) in topic_names.rejected().items()}
    assert sorted(told) == [2, 3, 4, 5]
    assert "ahead of the worker's clock" in told[2]
    assert told[3].startswith("Kafka timestamp: ")
    assert "the year 1969 is not in 1970 to 9998" in told[4]
    assert "this record has none (-1)" in told[5]
