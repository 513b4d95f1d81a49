"""Batches as producers and brokers really write them: every codec of librdkafka's and of Java's, and odd headers."""

import itertools
import json
from pathlib import Path

from confluent_kafka import Producer

from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames, wait_until
from tests.raw_batches import Sent, batch_of, send_batch, with_header_name

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PER_CODEC = 200


async def test_every_codec_and_header__is_read(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """With a `compression.type` of its own, a topic has the broker compress anew: by the Java producer's own code."""
    with Scene(topic_names, redis_db, tmp_path) as scene:
        # First of all: a broker that compresses anew would write a name of its own.
        odd = batch_of([Sent(1_700_000_000_000, b"odd", reading("odd"), [("odd", b"x")])])
        await send_batch(
            scene.topics.bootstrap, scene.topics.source, with_header_name(odd, b"odd\x02x", b"\xff\x00\xfe\x02x")
        )
        ids = (f"device-{number}" for number in itertools.count())
        sent = set()
        for by_broker, codec in itertools.product((False, True), CODECS):
            scene.configure(
                scene.topics.source, compression_type=codec.replace("none", "uncompressed") if by_broker else "producer"
            )
            producer = Producer(
                {"bootstrap.servers": scene.topics.bootstrap, "compression.type": "none" if by_broker else codec}
            )
            for device_id in itertools.islice(ids, PER_CODEC):
                producer.produce(scene.topics.source, reading(device_id), device_id)
                sent.add(device_id)
            assert producer.flush(30) == 0
        (worker,) = scene.start_workers(REDIS_METADATA_TTL="0")
        with redis_db.connect() as client:
            wait_until(lambda: client.scard("devices") == len(sent) + 1, 30, "all devices")
            assert {member.decode() for member in client.smembers("devices")} == sent | {"odd"}
        scene.wait_caught_up()
        assert worker.terminate() == 0


def reading(device_id: str) -> bytes:
    """Make a reading that is long enough to be worth compressing."""
    fields = {"request_id": "r", "timestamp": "2023-11-14T22:13:20", "device_id": device_id, "values": [0] * 50}
    return json.dumps(fields | {"metadata": {"datatype_name": "temperature"}}).encode()
