"""Chunks of records through Faust: with `consumer_thread` and `fetching` the only modules that know its inside.

Faust pays its price per event (100-200 µs); here an event is a whole chunk: the records that one fetch brought of one
partition. The agent gets it as it is, and acks it once, after the flush.

Read against faust-streaming 0.15.3 and aiokafka 0.14; `tests/unit/kafka/test_transport.py` holds what is relied upon.
Where it leaves Faust's path:

* `Consumer` keeps acks and gaps offset by offset, in lists and interval trees, and `_add_gap` marks one offset too
  many (faust-streaming/faust#282; #378 and #606 are its kin), after which one message per commit interval is
  committed. Chunks arrive in order, so `ChunkConsumer` needs only their queue: what may be committed ends where the
  first unacked chunk begins. Offsets that never arrive (compacted, aborted, transaction markers) lie within a chunk.
* A refused commit counts as made. Here it is repeated.
* `wait_empty` waits without limit, on a rebalance too, and is called twice at a stop. Here it is the app's `drain`,
  once, which has a limit; and so has each step of the stop that waits for Kafka.
* The fetch's time limit and `read_committed` can't be set otherwise.
* aiokafka's heartbeats don't tell the static id (KIP-345), so a member whose id another has taken isn't told that it
  is fenced: it takes the id back, the other does too, and so on for ever. Here it goes on without the id.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage

from stream_cache.kafka.broker_wait import PatientProducer
from stream_cache.kafka.chunks import Chunk
from stream_cache.kafka.consumer_thread import ConsumerThread
from stream_cache.readings.reading import RawRecord
from stream_cache.waiting import ends_within


class ChunkConsumer(driver.Consumer):
    """Counts what may be committed by whole chunks."""

    _thread: ConsumerThread

    def __init__(self, transport: ChunkTransport, *args: Any, **kwargs: Any) -> None:
        self.poll_timeout_s = transport.poll_timeout_s
        self.drain = transport.drain
        self.decode = transport.decode
        self.leave_within_s = transport.leave_within_s
        self._delivered: defaultdict[TP, deque[Message]] = defaultdict(deque)
        #: Up to where everything delivered is acked, where that is not committed yet.
        self._acked_up_to: dict[TP, int] = {}
        super().__init__(transport, *args, **kwargs)
        self._deliver_to_stream = self.callback
        self.callback = self._deliver

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

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

    def committed_offsets(self) -> dict[TP, int | None]:
        """Return the committed offset of each assigned partition, None where nothing is committed."""
        return {tp: self._committed_offset.get(tp) for tp in self._thread.partition_states()}

    def assigned_tps(self) -> frozenset[TP]:
        """Return the partitions that are ours, none before there is an assignment."""
        return self._thread.assigned_tps()

    def take_group_error(self) -> KafkaError | None:
        """Return why the group has refused this member, None where it hasn't, and let the client try again.

        aiokafka parks such an error, and the member with it, until somebody asks; Faust never does.
        """
        return self._thread.take_group_error()

    @property
    def is_coordinating(self) -> bool:
        """Whether aiokafka still takes part in the group. It says only in its log when it has stopped to, for ever."""
        return self._thread.is_coordinating

    async def perform_seek(self) -> None:
        """Go to where reading goes on after a rebalance: what is committed, or the beginning where nothing is."""
        # Faust adds what is committed to what it remembers, and what it remembers may have been refused.
        self._committed_offset.clear()
        await super().perform_seek()

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
        """Return the offset up to which everything delivered is acked, or None if nothing is."""
        delivered = self._delivered[tp]
        while delivered and delivered[0].acked:
            self._acked_up_to[tp] = delivered.popleft().offset + 1
        return self._acked_up_to.get(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002 - Faust's signature
        """Commit; what was refused is committed the next time, where Faust notes it as done."""
        before = {tp: self._committed_offset.get(tp) for tp in offsets}
        has_committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not has_committed:
            self._committed_offset.update(before)
        for tp, offset in offsets.items():
            if has_committed and self._acked_up_to.get(tp) == offset:
                del self._acked_up_to[tp]
        return has_committed

    async def wait_empty(self) -> None:
        """Called when a rebalance or a shutdown begins: flush what has been taken, within a time limit, and commit."""
        if self.should_stop:
            # The app has asked before, or has crashed: whoever could flush is gone.
            return
        await self.drain()
        if not await ends_within(self.leave_within_s if self.app.should_stop else None, self._commit_all()):
            self.log.warning("Kafka does not answer: what was flushed last stays uncommitted, and is read again")

    async def _commit_all(self) -> None:
        # A commit that began before the drain doesn't know of its acks.
        await self.maybe_wait_for_commit_to_finish()
        await self.commit_and_end_transactions()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Flush and commit (Faust calls `wait_empty`), then forget."""
        await super().on_partitions_revoked(revoked)
        self._forget_deliveries()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin anew: what an earlier assignment delivered and didn't commit is read again."""
        self._forget_deliveries()
        await super().on_partitions_assigned(assigned, generation_id)

    def _forget_deliveries(self) -> None:
        self._delivered.clear()
        self._acked_up_to.clear()


class ChunkProducer(PatientProducer):
    """Faust's producer, which waits for a broker that is away no longer than there is time, once the app stops."""

    async def flush(self) -> None:
        """Wait until the broker has all that was sent."""
        await self._within_limit(super().flush())

    async def on_stop(self) -> None:
        """Send what is left, and close."""
        await self._within_limit(super().on_stop())

    async def _within_limit(self, ending: Coroutine[Any, Any, None]) -> None:
        transport = cast("ChunkTransport", self.transport)
        if not await ends_within(transport.leave_within_s if self.app.should_stop else None, ending):
            self.log.warning("Kafka does not answer: what is left for the error topic is read again at its source")


class ChunkTransport(driver.Transport):
    """Faust's aiokafka transport with consumers that hand over chunks.

    Args:
        poll_timeout_s: the longest that one fetch waits on an idle topic.
        decode: makes of the records of a chunk, and their partition, what the agent gets; called in the consumer's
            thread, must not raise.
        drain: awaited when a rebalance or a shutdown begins. Must flush and ack what has been taken, and must end
            within a limit: what it leaves unacked is not committed.
        leave_within_s: the longest that each of the last steps waits for Kafka when the app stops: the last commit,
            leaving the group, and the producer's flush and end.
    """

    Consumer = ChunkConsumer
    Producer = ChunkProducer

    def __init__(
        self,
        *args: Any,
        poll_timeout_s: float,
        decode: Callable[[Sequence[RawRecord], int], Any],
        drain: Callable[[], Awaitable[None]],
        leave_within_s: float,
        **kwargs: Any,
    ) -> None:
        self.poll_timeout_s, self.decode, self.drain = poll_timeout_s, decode, drain
        self.leave_within_s = leave_within_s
        super().__init__(*args, **kwargs)
