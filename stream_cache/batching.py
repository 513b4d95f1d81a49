"""Chunks of records through Faust: the only module that knows Faust's inside.

Faust pays its price per event (100-200 µs); here an event is a whole chunk: the records that one fetch brought of one
partition. The agent gets it as it is, and acks it once, after the flush.

Read against faust-streaming 0.15.3 and aiokafka 0.14; `tests/unit/test_batching.py` holds what is relied upon. Where
it leaves Faust's path:

* `Consumer` keeps acks and gaps offset by offset, in lists and interval trees, and `_add_gap` marks one offset too
  many (faust-streaming/faust#282; #378 and #606 are its kin), after which one message per commit interval is
  committed. Chunks arrive in order, so `ChunkConsumer` needs only their queue: what may be committed ends where the
  first unacked chunk begins. Offsets that never arrive (compacted, aborted, transaction markers) lie within a chunk.
* `wait_empty` waits without limit, on a rebalance too. Here it is the app's `drain`, which has one.
* The fetch's time limit and `read_committed` can't be set otherwise.
* aiokafka's heartbeats don't tell the static id (KIP-345), so a member whose id another has taken isn't told that it
  is fenced: it takes the id back, the other does too, and so on for ever. Here it goes on without the id.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import faust
import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, Message
from faust.types.tuples import ConsumerMessage

from stream_cache.broker_wait import PatientConsumerThread, PatientProducer
from stream_cache.models import SourceRecord

if TYPE_CHECKING:
    import aiokafka


class Chunk(msgspec.Struct):
    """What the records say that one fetch brought of one partition.

    `content` is what the transport's `decode` made of them, None where there was none: where the log holds only
    transaction markers or aborted records, the offset moves on all the same. `next_offset` is the one after the last
    that was read; `is_caught_up` says that no assigned partition is known to hold more. `size_bytes` is that of the
    records' values, which what was made of them may hold on to.
    """

    content: Any
    record_count: int
    next_offset: int
    is_caught_up: bool
    size_bytes: int = 0


class ChunkSchema(faust.Schema[None, Chunk]):
    """Hands a chunk to the agent as it is: nothing for Faust to decode, and so nothing to fail or to ack on its own."""

    def loads_key(self, *_: Any, **__: Any) -> Any:
        """A chunk has no key: each of its records has its own."""

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Any:  # noqa: ARG002 - Faust's signature
        """Return the chunk."""
        return message.value


class _Record(msgspec.Struct, gc=False):
    """A `SourceRecord`, and nothing more."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def _as_record(tp: TP, record: Any) -> _Record:
    """Take the place of aiokafka's own conversion of a record.

    That makes a dataclass of eleven fields, which took a tenth of the interpreter's time and keeps headers and sizes
    in memory that nobody reads. A record that it made before we could say so serves as well.
    """
    return _Record(tp.partition, record.offset, record.timestamp, record.key, record.value)


class _ChunkConsumerThread(PatientConsumerThread):
    """Fetches and decodes in a thread of its own, and hands over one chunk per partition.

    Decoding there leaves the main thread's event loop to flushes and lookups, and passes the interpreter's lock to and
    fro less often.
    """

    consumer: ChunkConsumer
    #: Where the chunks handed over so far end. Read and written in this thread only.
    _handed_over: dict[TP, int]
    #: Of the last assignment; empty before the first.
    _member_id = ""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust sets these two to constants, or by its exactly-once mode. The consumer reads them when it starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - see above
        consumer._fetch_max_wait_ms = int(self.consumer.poll_timeout_s * 1000)  # noqa: SLF001 - see above
        return consumer

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let go, and look before joining again whether the static id is still ours to join with."""
        await super().on_partitions_revoked(revoked)
        coordinator = self._coordinator
        # aiokafka has thrown away the member id that we had: the broker doesn't know it any more, or its generation.
        has_lost_id = self._member_id and not coordinator.member_id
        instance_id = coordinator._group_instance_id  # noqa: SLF001 - nothing public tells
        if has_lost_id and instance_id is not None and await self._is_taken(instance_id):
            coordinator._group_instance_id = None  # noqa: SLF001 - it can't be set otherwise
            self.log.error(
                "another worker has taken KAFKA_GROUP_INSTANCE_ID %r; going on without a static id: "
                "give each worker its own, and restart them",
                instance_id,
            )

    async def _is_taken(self, instance_id: str) -> bool:
        """Ask the broker whether the group has another member of this static id. False when it doesn't answer."""
        request = DescribeGroupsRequest([self._coordinator.group_id])
        try:
            response = await self._coordinator._send_req(request)  # noqa: SLF001 - goes to the broker that must know
        except KafkaError as error:
            self.log.warning("whether the static id %r is taken can't be told: %s", instance_id, error)
            return False
        # aiokafka asks in a version that leaves static ids out, but the broker makes member ids of them: "id-UUID".
        others = {member[0] for group in response.groups for member in group[5]} - {self._member_id}
        return any(re.fullmatch(rf"{re.escape(instance_id)}-[0-9a-f-]{{36}}", member_id) for member_id in others)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin anew."""
        self._handed_over = {}
        self._member_id = self._coordinator.member_id
        await super().on_partitions_assigned(assigned, generation_id)

    async def _fetch_records(self, consumer: aiokafka.AIOKafkaConsumer, *args: Any, **kwargs: Any) -> Any:
        for result in consumer._fetcher._records.values():  # noqa: SLF001 - what has been fetched and not yet been read
            with suppress(AttributeError):  # an error that was fetched, or records that are read to their end
                result._partition_records._consumer_record = _as_record  # noqa: SLF001 - see `_as_record`
        fetched = await super()._fetch_records(consumer, *args, **kwargs)
        # Nothing is awaited from here on, so the positions are those right after this fetch.
        states = self.partition_states()
        is_caught_up = all(state.lso is not None and state.position >= state.lso for state in states.values())
        chunks = {}
        for tp, state in states.items():
            records = fetched.get(tp, ())
            if records or state.position > self._handed_over.get(tp, 0):
                self._handed_over[tp] = state.position
                content = self.consumer.decode(records) if records else None
                size_bytes = sum([len(record.value or b"") for record in records])
                chunks[tp] = [Chunk(content, len(records), state.position, is_caught_up, size_bytes)]
        return chunks

    @property
    def _coordinator(self) -> Any:
        return self._ensure_consumer()._coordinator  # noqa: SLF001 - nothing public tells of the membership

    @property
    def is_coordinating(self) -> bool:
        """Whether the task that keeps up the membership runs, or has not begun."""
        if self._consumer is None or self._consumer._closed:  # noqa: SLF001 - nothing public tells
            return True
        return not self._coordinator._coordination_task.done()  # noqa: SLF001 - nothing public tells

    async def is_group_at_beginning(self, topic: str) -> bool:
        """See `ChunkConsumer.is_group_at_beginning`."""
        consumer = self._ensure_consumer()
        tps = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
        begins = await consumer.beginning_offsets(tps)
        return all([(await consumer.committed(tp) or 0) <= begins[tp] for tp in tps])

    def partition_count(self, topic: str) -> int | None:
        """Return how many partitions a topic has, None when it doesn't exist or nothing is known yet."""
        if self._consumer is None:
            return None
        partitions = self._consumer._client.cluster.partitions_for_topic(topic)  # noqa: SLF001 - no public way doesn't wait
        return len(partitions) if partitions else None

    def partition_states(self) -> dict[TP, Any]:
        """Return aiokafka's state of each assigned partition that has a position: `.position`, `.lso`."""
        # No public way asks for a position without waiting.
        consumer = self._consumer
        subscription = consumer and consumer._subscription.subscription  # noqa: SLF001 - see above
        if subscription is None or subscription.assignment is None:
            return {}
        states = {tp: subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
        return {tp: state for tp, state in states.items() if state is not None and state.has_valid_position}


class ChunkConsumer(driver.Consumer):
    """Counts what may be committed by whole chunks."""

    _thread: _ChunkConsumerThread

    def __init__(self, transport: ChunkTransport, *args: Any, **kwargs: Any) -> None:
        self.poll_timeout_s = transport.poll_timeout_s
        self.drain = transport.drain
        self.decode = transport.decode
        self._delivered: defaultdict[TP, deque[Message]] = defaultdict(deque)
        super().__init__(transport, *args, **kwargs)
        self._deliver_to_stream = self.callback
        self.callback = self._deliver

    def _new_consumer_thread(self) -> _ChunkConsumerThread:
        return _ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ARG002 - Faust always says 1.0
        """Fetch, for as long as our setting says."""
        return super().getmany(self.poll_timeout_s)

    def _to_message(self, tp: TP, record: Chunk) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.next_offset - 1,
            0.0,  # nobody asks a chunk for its time
            0,
            None,
            None,
            cast("bytes", record),  # the chunk takes the place of a record's value
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def lag(self) -> int:
        """Return how many records of the assigned partitions are not yet committed, as far as known."""
        return sum(
            max(0, (state.lso or 0) - (self._committed_offset.get(tp) or 0))
            for tp, state in self._thread.partition_states().items()
        )

    def committed_offsets(self) -> dict[TP, int | None]:
        """Return the committed offset of each assigned partition, None where nothing is committed."""
        return {tp: self._committed_offset.get(tp) for tp in self._thread.partition_states()}

    def partition_count(self, topic: str) -> int | None:
        """Return how many partitions a topic has, None when it doesn't exist, as far as the client knows."""
        return self._thread.partition_count(topic)

    @property
    def is_coordinating(self) -> bool:
        """Whether aiokafka still takes part in the group. It says only in its log when it has stopped to, for ever."""
        return self._thread.is_coordinating

    async def is_group_at_beginning(self, topic: str) -> bool:
        """Tell whether the group has committed nothing of a topic but, at most, where its partitions begin."""
        return bool(await self._thread.call_thread(self._thread.is_group_at_beginning, topic))

    async def perform_seek(self) -> None:
        """Go to where reading goes on after a rebalance: the committed offsets, or the beginning where there is none.

        aiokafka's `seek_to_committed` leaves a partition without a commit where it is. A fetch that a rebalance
        overtook has moved it, and what that fetch brought is dropped: it would never be read.
        """
        await super().perform_seek()
        without_commit = [tp for tp in self.assignment() if not self._committed_offset.get(tp)]
        if without_commit:
            await self._seek_to_beginning(without_commit)

    async def _seek_to_beginning(self, tps: Sequence[TP]) -> None:
        await self._thread.seek_to_beginning(*map(driver.ensure_aiokafka_TP, tps))

    async def _deliver(self, message: Message) -> None:
        self._delivered[message.tp].append(message)
        await self._deliver_to_stream(message)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to mark: offsets that never arrive lie within a chunk."""

    def ack(self, message: Message) -> bool:
        """Mark a chunk as done. Which offset that allows is found out when it is committed."""
        is_first = not message.acked
        message.acked = True
        self._unacked_messages.discard(message)
        return is_first

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        return [tp for tp in self._delivered if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset up to which everything delivered is acked, or None if nothing new is."""
        delivered, offset = self._delivered[tp], None
        while delivered and delivered[0].acked:
            offset = delivered.popleft().offset + 1
        return offset

    async def wait_empty(self) -> None:
        """Called when a rebalance or a shutdown begins: flush what has been taken, within a time limit, and commit."""
        await self.drain()
        # A commit that began before the drain doesn't know of its acks.
        await self.maybe_wait_for_commit_to_finish()
        await self.commit_and_end_transactions()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Flush and commit (Faust calls `wait_empty`), then forget."""
        await super().on_partitions_revoked(revoked)
        self._delivered.clear()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin anew: what an earlier assignment delivered and didn't commit is read again."""
        self._delivered.clear()
        await super().on_partitions_assigned(assigned, generation_id)


class ChunkTransport(driver.Transport):
    """Faust's aiokafka transport with consumers that hand over chunks.

    Args:
        poll_timeout_s: the longest that one fetch waits on an idle topic.
        decode: makes of the records of a chunk what the agent gets; called in the consumer's thread, must not raise.
        drain: awaited when a rebalance or a shutdown begins. Must flush and ack what has been taken, and must end
            within a limit: what it leaves unacked is not committed.
    """

    Consumer = ChunkConsumer
    Producer = PatientProducer

    def __init__(
        self,
        *args: Any,
        poll_timeout_s: float,
        decode: Callable[[Sequence[SourceRecord]], Any],
        drain: Callable[[], Awaitable[None]],
        **kwargs: Any,
    ) -> None:
        self.poll_timeout_s, self.decode, self.drain = poll_timeout_s, decode, drain
        super().__init__(*args, **kwargs)
