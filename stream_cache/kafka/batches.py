"""Record batches, as a broker sends them, -> records: a bounded step at a time, in place of aiokafka's own parser.

aiokafka decompresses a batch in one go, whatever it holds, and looks at the names of headers, which need not be UTF-8.
Its parser in C still does the work wherever a batch is of usual size and its headers are readable; what it can't do,
`_records_of` does, in Python and slower.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from stream_cache.errors import UnreadableBatch
from stream_cache.kafka.compression import open_compressed, read_up_to
from stream_cache.readings.reading import RawRecord, Record

if TYPE_CHECKING:
    from collections.abc import Callable

#: What is decompressed at once, and about what the values of one step hold. Batches are of 1 MB at most, as clients
#: make them by default.
STEP_BYTES: Final = 4 * 2**20
#: Records of one step in Python: about 5 ms.
_STEP_RECORDS: Final = 1000

# The head of a batch (format 2): base offset, length of what follows, leader's epoch, format, CRC, attributes, and
# further fields. Older formats have the same beginning.
_HEAD: Final = Struct(">qiibIh")
_LENGTH_ENDS: Final = 12
_HEAD_BYTES: Final = 61
_SHORTEST_BYTES: Final = 26  # a message of format 0
_FORMAT: Final = 2
_CODEC_MASK: Final = 0x07
_ATTRIBUTES_LOW_BYTE: Final = 22
_LOG_APPEND_TIME: Final = 1
_LONGEST_VARINT: Final = 5  # of a length


class Step(NamedTuple):
    """Records that were read at once, and the bytes that they keep in memory."""

    records: Sequence[RawRecord]
    size_bytes: int

    @classmethod
    def measured(cls, records: Sequence[RawRecord]) -> Step:
        """Sum the records' sizes up, in 0.15 us each."""
        return cls(records, sum([len(record.value or b"") + len(record.key or b"") for record in records]))


class Batch:
    """A batch, and the bytes that it was made of, which aiokafka's object keeps to itself."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        _, _, _, self.format, _, attributes = _HEAD.unpack_from(data)
        is_current = self.format >= _FORMAT
        self.head: Any = DefaultRecordBatch(data) if is_current else LegacyRecordBatch(data, self.format)
        self._codec = attributes & _CODEC_MASK if is_current else 0

    def open(self) -> tuple[Any, bytes, Callable[[int], bytes]]:
        """Decompress a first step.

        Returns: aiokafka's iterable of the records, None where they don't end with the step; the bytes of the step;
            and what reads on.
        """
        if not self._codec:
            return self.head, self._data[_HEAD_BYTES:], bytes
        more = partial(read_up_to, open_compressed(self._codec, self._data[_HEAD_BYTES:]))
        body = more(STEP_BYTES)
        if len(body) == STEP_BYTES:
            return None, body, more
        head = bytearray(self._data[:_HEAD_BYTES])
        head[_ATTRIBUTES_LOW_BYTE] &= ~_CODEC_MASK
        return DefaultRecordBatch(bytes(head + body)), body, more

    @property
    def record_count(self) -> int:
        """How many records it says it has; formats before the current one don't, and one is what they usually hold."""
        return int.from_bytes(self._data[_HEAD_BYTES - 4 : _HEAD_BYTES]) if self.format >= _FORMAT else 1


class Batches:
    """What a fetch brought of a partition, batch by batch; an incomplete one at its end is left out.

    Takes the place of aiokafka's `MemoryRecords`, and has what is used of that.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._begin, self._end = data, 0, 0
        self._find_next()

    def size_in_bytes(self) -> int:
        """Return the size of all."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether there is a further batch."""
        return self._end > self._begin

    @property
    def bytes_left(self) -> int:
        """Size of those that are not yet read."""
        return len(self._data) - self._begin

    def __iter__(self) -> Iterator[Batch]:
        """Go through the batches, once. Raises: CorruptRecordException."""
        while self.has_next():
            if self._end - self._begin < _SHORTEST_BYTES:
                raise CorruptRecordException("it is shorter than any batch can be")
            data = self._data[self._begin : self._end]
            self._find_next()
            yield Batch(data)

    def _find_next(self) -> None:
        self._begin = begin = self._end
        if len(self._data) - begin >= _LENGTH_ENDS:
            length = int.from_bytes(self._data[begin + 8 : begin + _LENGTH_ENDS], signed=True)
            end = begin + _LENGTH_ENDS + max(0, length)
            if end <= len(self._data):
                self._end = end


class PartitionReader(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Reads what a fetch brought of a partition in steps. `next_fetch_offset` is the offset after what was read."""

    _limit = 0

    @property
    def bytes_left(self) -> int:
        """Size of the batches behind the one that is being read."""
        return int(self._records.bytes_left)

    def step(self, limit: int) -> Step | None:
        """Read on, up to about `STEP_BYTES`.

        Returns: up to `limit` records (`_STEP_RECORDS` more in odd cases), or none where those of this step lie before
            the offset that was asked for; None at the end of all.
        Raises: UnreadableBatch.
        """
        self._limit = limit
        try:
            step: Step | None = next(self._records_iterator, None)
        except Exception as error:  # each codec fails in its own way
            raise UnreadableBatch(self._tp.topic, self._tp.partition, self.next_fetch_offset, error) from error
        return step

    def _unpack_records(self) -> Iterator[Step]:
        for batch in self._records:
            if self._check_crcs and not batch.head.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            if not self._is_hidden(batch.head):
                yield from map(self._from_here, self._steps(batch))
            # Beyond its last record, which may have been compacted away.
            self.next_fetch_offset = batch.head.next_offset

    def _is_hidden(self, head: Any) -> bool:
        """Whether a reader of committed records doesn't see a batch: it was aborted, or marks a transaction's end."""
        if head.producer_id is not None:
            self._consume_aborted_up_to(head.base_offset)
            if head.is_control_batch and self._contains_abort_marker(head):
                self._aborted_producers.discard(head.producer_id)
            if head.is_transactional and head.producer_id in self._aborted_producers:
                return True
        return bool(head.is_control_batch)

    def _steps(self, batch: Batch) -> Iterator[Step]:
        records, body, more = batch.open()
        if records is None:
            yield from _parse(batch, self._tp.partition, body, more)
            return
        record_bytes = len(body) // max(1, batch.record_count) + 1  # as if they were of one size
        at_most = max(1, STEP_BYTES // record_bytes)
        records = itertools.chain(records)  # aiokafka's may be iterated once only
        try:
            while step := list(itertools.islice(records, min(self._limit, at_most))):
                yield Step(step, len(step) * record_bytes)
        except UnicodeDecodeError:  # the name of a header: all is read again, without looking at it
            yield from _parse(batch, self._tp.partition, body, more)

    def _from_here(self, step: Step) -> Step:
        """Move on, and leave out what lies before the offset that was asked for."""
        records, size_bytes = step
        if records and records[0].offset < self.next_fetch_offset:
            records = [record for record in records if record.offset >= self.next_fetch_offset]
        if records:
            self.next_fetch_offset = records[-1].offset + 1
        return Step(records, size_bytes)


def _parse(batch: Batch, partition: int, body: bytes, more: Callable[[int], bytes]) -> Iterator[Step]:
    """Read a batch's records, without their headers; `body` holds the first of them, and `more` brings the others.

    Each step ends, at the latest, where more had to be decompressed.
    """
    head, begin = batch.head, 0
    has_one_time = head.timestamp_type == _LOG_APPEND_TIME
    step: list[Record] = []
    for _ in range(batch.record_count):
        # A record is its length, then that many bytes.
        if len(body) - begin < _LONGEST_VARINT:
            body, begin = body[begin:] + more(STEP_BYTES), 0
        length, at = decode_varint(body, begin)
        if length <= 0:
            raise CorruptRecordException("it ends before its last record")
        if len(body) - at < length:
            yield Step.measured(step)
            step = []
            body = body[at:]
            body, at = body + more(max(STEP_BYTES, length - len(body))), 0
            if length > len(body):
                raise CorruptRecordException("it ends before its last record")
        begin = at + length
        time_delta, at = decode_varint(body, at + 1)  # after the record's attributes, of which Kafka has none
        offset_delta, at = decode_varint(body, at)
        key, at = _nullable_bytes(body, at)
        value, at = _nullable_bytes(body, at)
        timestamp = head.max_timestamp if has_one_time else head.first_timestamp + time_delta
        step.append(Record(partition, head.base_offset + offset_delta, timestamp, key, value))
        if len(step) >= _STEP_RECORDS:
            yield Step.measured(step)
            step = []
    yield Step.measured(step)


def _nullable_bytes(body: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(body, at)
    return (None, at) if length < 0 else (body[at : at + length], at + length)


# aiokafka makes what a fetch brought by these two names. Nothing else lets us in before a batch is decompressed.
fetcher.MemoryRecords = Batches
fetcher.PartitionRecords = PartitionReader
