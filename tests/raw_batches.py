"""Record batches byte by byte, as no library writes them: any codec, header name and size; and how to send one."""

import gzip
import struct
from collections.abc import Sequence
from typing import NamedTuple

import lz4.frame
import zstandard
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import snappy_encode
from aiokafka.errors import NotLeaderForPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from tests.waiting import wait_until_async

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
COMPRESS = {
    NONE: bytes,
    GZIP: gzip.compress,
    SNAPPY: snappy_encode,
    LZ4: lz4.frame.compress,
    ZSTD: zstandard.compress,
}


class Sent(NamedTuple):
    """A record to be sent: its Kafka timestamp in ms, its headers' names as bytes."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def batch_of(
    records: Sequence[Sent], codec: int = NONE, base_offset: int = 0, compressed: bytes | None = None
) -> bytes:
    """Make a batch as a producer does; `compressed` takes the place of what the records would become."""
    builder = DefaultRecordBatchBuilder(2, NONE, 0, -1, -1, 0, 2**30)
    for offset, record in enumerate(records):
        builder.append(offset, *record[:3], list(record.headers))
    plain = bytes(builder.build())
    body = compressed if compressed is not None else COMPRESS[codec](plain[61:])
    return sealed(base_offset, plain[21:23] if not codec else struct.pack(">h", codec), plain[23:61] + body)


def sealed(base_offset: int, attributes: bytes, rest: bytes) -> bytes:
    """Put a batch's length and CRC before its attributes and all that follows."""
    covered = attributes + rest
    return struct.pack(">qiibI", base_offset, len(covered) + 9, -1, 2, calc_crc32c(covered)) + covered


def with_header_name(batch: bytes, before: bytes, after: bytes) -> bytes:
    """Give a header of an uncompressed batch a name that no library would write."""
    assert before in batch
    return sealed(0, batch[21:23], batch[23:].replace(before, after))


async def send_batch(bootstrap: str, topic: str, batch: bytes, partition: int = 0) -> None:
    """Have the broker append the batch as it is, but for its offset."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()

    async def is_appended() -> bool:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        response = await client.send(leader, ProduceRequest(None, -1, 60_000, [(topic, [(partition, batch)])]))
        ((_, ((_, error_code, *_),)),) = response.topics
        assert error_code in {0, NotLeaderForPartitionError.errno}, for_code(error_code)
        return not error_code  # a new partition's leader may not know yet that it is

    try:
        await client.set_topics([topic])
        await wait_until_async(is_appended, 30, "a leader that knows itself")
    finally:
        await client.close()
