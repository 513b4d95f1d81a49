"""Batches that ended a worker, or its membership: by the Java producer, of 1 GB in 1 MB, and corrupt on the disk."""

import json
import subprocess
from pathlib import Path

import zstandard

from tests import harness
from tests.faults.scene import Scene
from tests.harness import Record, RedisDatabase, TopicNames, produce, wait_until
from tests.raw_batches import ZSTD, Sent, batch_of, send_batch
from tests.services import JAVA, KafkaServer, ensure
from tests.services.kafka import SHORT_LIVED_JVM, kafka_jars

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
MB = 2**20


def reading(device_id: str, padding: int = 0) -> bytes:
    fields = {"request_id": "r", "timestamp": "2023-11-14T22:13:20", "device_id": device_id, "values": []}
    return json.dumps(fields | {"label": "x" * padding, "metadata": {"datatype_name": "T"}}).encode()


def test_java_producer__with_every_codec_is_read(kafka_scene: Scene, own_kafka: KafkaServer, tmp_path: Path) -> None:
    scene = kafka_scene
    java = [ensure(JAVA), "-cp", f"{kafka_jars()}/*", *SHORT_LIVED_JVM, "org.apache.kafka.tools.ConsoleProducer"]
    to = ["--bootstrap-server", own_kafka.bootstrap_servers, "--topic", scene.topics.source]
    expected = set()
    for codec in CODECS:
        ids = [f"{codec}-{number}" for number in range(500)]
        lines = tmp_path / f"{codec}.jsonl"
        lines.write_bytes(b"".join(reading(device_id, 200) + b"\n" for device_id in ids))
        with lines.open("rb") as stdin:
            subprocess.run([*java, *to, "--producer-property", f"compression.type={codec}"], stdin=stdin, check=True)
        expected.update(ids)
    scene.start_workers()
    with scene.database.connect() as client:
        wait_until(lambda: {member.decode() for member in client.smembers("devices")} == expected, 30, "all devices")
    scene.wait_caught_up()


async def test_bomb__of_1_gb_in_1_mb_costs_neither_memory_nor_membership(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """It is read twice: after a restart from the middle of the batch on, where what lies before is skipped."""
    with Scene(topic_names, redis_db, tmp_path, partitions=1) as scene:
        records = [Sent(1_700_000_000_000, b"d", reading(f"d{n % 100}", 64_000)) for n in range(200)]
        bomb = repeated(records, 80)
        assert len(bomb) < MB
        await send_batch(scene.topics.bootstrap, scene.topics.source, bomb)
        (worker,) = scene.start_workers(REDIS_METADATA_TTL="0", KAFKA_SESSION_TIMEOUT_S="2")
        before = worker.rss_bytes()
        peak = before

        def is_beyond(count: int) -> bool:
            nonlocal peak
            peak = max(peak, worker.rss_bytes())
            return scene.committed() >= count

        wait_until(lambda: is_beyond(8000), 60, "half of the bomb", interval_s=0.02)
        worker.kill()
        worker.start()
        wait_until(lambda: is_beyond(16_000), 60, "all of the bomb", interval_s=0.02)
        assert peak < before + 400 * MB
        assert "Heartbeat session expired" not in worker.log_text()
        assert "was not recognized" not in worker.log_text()
        assert worker.terminate() == 0


def repeated(records: list[Sent], times: int) -> bytes:
    """Make a batch of the records again and again, without ever holding it uncompressed."""
    compress = zstandard.ZstdCompressor().compressobj()
    body, count = bytearray(), 0
    for _ in range(times):
        for record in records:
            # Attributes, time and offset deltas, key, value, no headers; all but the value is small.
            fields = b"\0\0" + varint(count) + varint(len(record.key or b"")) + (record.key or b"")
            fields += varint(len(record.value or b"")) + (record.value or b"") + b"\0"
            body += compress.compress(varint(len(fields)) + fields)
            count += 1
    body += compress.flush()
    return batch_of([Sent(records[0].timestamp, None, b"")] * count, ZSTD, compressed=bytes(body))


def varint(number: int) -> bytes:
    """Encode a number that is not negative, in zigzag form."""
    number <<= 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes([*encoded, number])


def test_corrupt_batch__is_named_by_the_last_words(kafka_scene: Scene, own_kafka: KafkaServer) -> None:
    scene = kafka_scene
    produce(scene.topics.bootstrap, scene.topics.source, [Record(reading("good"), partition=1)])
    wait_until(lambda: harness.end_offsets(scene.topics.bootstrap, scene.topics.source)[1] == 1, 10, "the first record")
    produce(scene.topics.bootstrap, scene.topics.source, [Record(reading("bad"), partition=1)])
    own_kafka.stop()
    (segment,) = own_kafka.directory.glob(f"data/{scene.topics.source}-1/*.log")
    data = bytearray(segment.read_bytes())
    data[-3] ^= 0xFF
    segment.write_bytes(data)
    own_kafka.start()
    worker = scene.add_worker()
    assert worker.wait_exit(60) == 1
    last = [line for line in worker.log_text().splitlines() if "can't be read" in line][-1]
    assert f"topic '{scene.topics.source}', partition 1, offset 1:" in last
