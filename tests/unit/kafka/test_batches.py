"""Batches of every codec, size and header -> records, in bounded steps; and what can't be read says where."""

import gzip
import itertools
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream_cache.errors import UnreadableBatch
from stream_cache.kafka.batches import STEP_BYTES, Batches, PartitionReader, Step
from stream_cache.readings.reading import Record
from tests.raw_batches import COMPRESS, GZIP, LZ4, SNAPPY, ZSTD, Sent, batch_of, with_header_name

TP = TopicPartition("iot_validated_data", 3)
LIMIT = 5000
READ_COMMITTED = 1


def reader_of(data: bytes, position: int = 0) -> PartitionReader:
    return PartitionReader(TP, Batches(data), [], position, None, None, True, READ_COMMITTED)


def records_of(step: Step | None) -> list[Record]:
    return [] if step is None else [Record.of(raw, TP.partition) for raw in step.records]


def steps_of(reader: PartitionReader) -> Iterator[list[Record]]:
    while step := reader.step(LIMIT):
        yield records_of(step)


def read(data: bytes, position: int = 0) -> list[Record]:
    return list(itertools.chain.from_iterable(steps_of(reader_of(data, position))))


def as_read(sent: Sequence[Sent], base_offset: int = 0) -> list[Record]:
    return [Record(3, base_offset + n, record.timestamp, record.key, record.value) for n, record in enumerate(sent)]


READINGS = [Sent(1_700_000_000_000 + n, b"device-%d" % n, b'{"n": %d}' % n, [("h", b"x")]) for n in range(100)]


@pytest.mark.parametrize("codec", COMPRESS)
def test_batch__of_every_codec_is_read(codec: int) -> None:
    assert read(batch_of(READINGS, codec, 7) + batch_of(READINGS, codec, 107)) == as_read([*READINGS, *READINGS], 7)


def test_batch__that_is_read_from_its_middle_on_gives_what_follows() -> None:
    assert read(batch_of(READINGS, ZSTD, 10), position=60) == as_read(READINGS, 10)[50:]


@given(
    st.lists(
        st.builds(
            Sent,
            st.integers(0, 2**45),
            st.none() | st.binary(max_size=300),
            st.none() | st.binary(max_size=300),
            st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_parser_in_python__reads_what_aiokafka_reads(sent: list[Sent]) -> None:
    odd = [*sent, Sent(0, None, None, [("odd", b"")])]
    assert read(with_header_name(batch_of(odd), b"odd", b"\xff\xff\xff")) == as_read(odd) == read(batch_of(odd))


# -------------------------------------------------------------------------------------------------------- what is large

#: 64 MiB of values in a batch of some kB.
BOMB = [Sent(n, b"key", b"\0" * 65_536) for n in range(1024)]


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_bomb__is_decompressed_step_by_step(codec: int) -> None:
    data = batch_of(BOMB, codec)
    tracemalloc.start()
    count = 0
    for step in steps_of(reader_of(data)):
        count += len(step)
        assert sum(len(record.value or b"") for record in step) <= STEP_BYTES
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(BOMB)
    assert peak_bytes < 6 * STEP_BYTES  # the piece before, the next one, and the values of both


def test_bomb__that_is_read_from_its_end_on_is_skipped_step_by_step() -> None:
    """Each step returns to the event loop, which heartbeats."""
    steps = list(steps_of(reader_of(batch_of(BOMB, ZSTD), position=1000)))
    assert steps.count([]) >= 1000 * 65_536 // STEP_BYTES
    assert list(itertools.chain.from_iterable(steps)) == as_read(BOMB)[1000:]


def test_record__that_is_larger_than_a_step_is_read_whole() -> None:
    sent = [Sent(0, None, b"a" * (3 * STEP_BYTES)), Sent(1, None, b"b")]
    assert read(batch_of(sent, GZIP)) == as_read(sent)


def test_step__of_a_large_batch_without_compression_is_bounded_too() -> None:
    steps = [len(step) for step in steps_of(reader_of(batch_of(BOMB)))]
    assert max(steps) * 65_536 <= STEP_BYTES
    assert sum(steps) == len(BOMB)


# --------------------------------------------------------------------------------------------------- what can't be read

WHERE = "topic 'iot_validated_data', partition 3, offset 100:"
GOOD = batch_of(READINGS)


def flipped(batch: bytes) -> bytes:
    return batch[:-1] + bytes([batch[-1] ^ 1])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (flipped(batch_of(READINGS, base_offset=100)), "checksum"),
        (batch_of(READINGS, 5, 100, b"?"), "codec 5"),
        (batch_of(READINGS, GZIP, 100, gzip.compress(b"\x10")), "Can't read"),
        (batch_of(READINGS, ZSTD, 100, b"no frame"), "Zstd"),
        (batch_of(READINGS, LZ4, 100, b"no frame at all"), "LZ4"),
        (batch_of(READINGS, SNAPPY, 100, b"\xff\xff"), "snappy"),
    ],
    ids=["checksum", "unknown codec", "too short", "zstd", "lz4", "snappy"],
)
def test_batch__that_cannot_be_read_says_where_it_is(bad: bytes, reason: str) -> None:
    reader = reader_of(GOOD + bad)
    assert records_of(reader.step(LIMIT)) == as_read(READINGS)
    with pytest.raises(UnreadableBatch) as caught:
        reader.step(LIMIT)
    assert str(caught.value).startswith(WHERE)
    assert reason in str(caught.value)


def test_batch__that_is_cut_off_by_the_size_of_a_fetch_is_left_for_the_next_one() -> None:
    reader = reader_of(GOOD + batch_of(READINGS, base_offset=100)[:-1])
    assert list(steps_of(reader)) == [as_read(READINGS)]
    assert reader.next_fetch_offset == 100
