"""The ack rule, on Faust's own commit path; how chunks are cut; and what is relied upon of Faust and aiokafka.

The rule: the committed offset never passes a reading that is not flushed, and reaches the end when all are acked.
"""

import asyncio
import importlib.metadata
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
)
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_cache.app import StreamCache, create_app
from stream_cache.errors import UnreadableBatch
from stream_cache.kafka.batches import STEP_BYTES
from stream_cache.kafka.chunks import Chunk
from stream_cache.kafka.consumer_thread import ConsumerThread
from stream_cache.kafka.transport import ChunkConsumer
from stream_cache.readings.reading import RawRecord
from tests.fakes import FakeRecord
from tests.raw_batches import ZSTD, Sent, batch_of, sealed
from tests.waiting import wait_until_async

T = TypeVar("T")
TOPIC = "iot_validated_data"
PARTITIONS = [TP(TOPIC, 0), TP(TOPIC, 1)]
#: Where each partition's log begins and ends, and which of its offsets hold no record (compacted, aborted, transaction
#: markers).
LOG_BEGIN = {PARTITIONS[0]: 0, PARTITIONS[1]: 3}
LOG_END = 40
GAPS = {PARTITIONS[0]: {0, 5, 6, 7, 20, 39}, PARTITIONS[1]: {0, 1, 2, *range(10, 25)}}


class Broker:
    """What a broker knows of the group."""

    def __init__(self) -> None:
        self.committed: dict[TP, int] = {}
        #: The group has rebalanced, and takes no commit of this member any more.
        self.has_rebalanced = False
        self.refusal: KafkaError | None = None
        self.commit_count = 0
        self.answers = asyncio.Event()
        self.answers.set()


class OfflineClient:
    """aiokafka's consumer, with its coordinator and its fetcher, as far as the consumer's thread asks them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._coordinator = self._fetcher = self
        self._closed = False
        self.assigned: set[TP] = set()
        self.position: dict[TP, int] = {}

    def assign(self, tps: set[TP], *, overtaken_by: int = 0) -> None:
        """Begin a generation. aiokafka goes to what is committed by itself, and a fetch may move on from there."""
        self.assigned = tps
        begins = {tp: self._broker.committed.get(tp, LOG_BEGIN[tp]) for tp in tps}
        self.position = {tp: min(begin + overtaken_by, LOG_END) for tp, begin in begins.items()}

    def assignment(self) -> set[TP]:
        return self.assigned

    async def commit(self, offsets: Mapping[TP, int]) -> None:
        if not offsets:
            raise ValueError(offsets)
        await self._broker.answers.wait()
        if self._broker.has_rebalanced:
            raise CommitFailedError("Commit cannot be completed since the group has already rebalanced")
        if self._broker.refusal is not None:
            raise self._broker.refusal
        self._broker.commit_count += 1
        self._broker.committed.update({TP(*tp): offset for tp, offset in offsets.items()})

    async def fetch_committed_offsets(self, tps: Iterable[TP]) -> dict[TP, OffsetAndMetadata]:
        committed = self._broker.committed
        return {tp: OffsetAndMetadata(committed[tp], "") for tp in tps if tp in committed}

    def seek_to(self, tp: TP, offset: int) -> None:
        self.position[tp] = offset

    def request_offset_reset(self, tps: Iterable[TP], _strategy: int) -> None:
        self.position.update({tp: LOG_BEGIN[tp] for tp in tps})


class OfflineProducer:
    """What a commit waits for."""

    async def flush(self) -> None: ...


async def do_nothing(*_: Any, **__: Any) -> None: ...


async def wait_for_ever(*_: Any) -> None:
    await asyncio.Event().wait()


async def call_here(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Stand for `call_thread`: a thread is not what is tried here."""
    return await function(*args)


def offline_consumer(app: StreamCache, broker: Broker | None = None) -> tuple[ChunkConsumer, OfflineClient]:
    """Make the service's consumer and its thread. As in Faust, a revoke asks it to be empty."""
    app.producer = OfflineProducer()  # type: ignore[assignment]

    async def revoke(*_: Any) -> None:
        if consumer.assignment():
            await consumer.wait_empty()

    consumer = ChunkConsumer(app.transport, do_nothing, revoke, do_nothing)  # type: ignore[arg-type]
    client = OfflineClient(broker or Broker())
    consumer._thread._consumer = client
    consumer._thread.call_thread = call_here  # type: ignore[method-assign,assignment]
    return consumer, client


class AckRule(RuleBasedStateMachine):
    """Any order of chunks, acks, commits and rebalances; of each offset it is known whether its reading is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.broker = Broker()
        self.start_consumer()
        self.waiting: list[ConsumerMessage] = []
        self.to_ack_in_drain: list[int] = []
        self.flushed: defaultdict[TP, set[int]] = defaultdict(set)
        self.commit: asyncio.Task[bool] | None = None
        self.assign({*PARTITIONS})

    def start_consumer(self) -> None:
        self.consumer, self.client = offline_consumer(create_app({}), self.broker)
        self.consumer.drain = self.drain

    def run(self, awaitable: Awaitable[T]) -> T:
        async def within_limit() -> T:
            async with asyncio.timeout(10):
                return await awaitable

        return self.loop.run_until_complete(within_limit())

    def teardown(self) -> None:
        self.rebalance_to({*PARTITIONS}, acks=[])
        for tp in PARTITIONS:
            self.deliver(tp, LOG_END, reaches_stream=True)
        self.ack_all()
        self.commit_now()
        # In the first partition, nothing but gaps may be left: the last chunk's end is the log's end.
        assert self.broker.committed == dict.fromkeys(PARTITIONS, LOG_END)
        self.loop.close()
        asyncio.set_event_loop(None)

    # -- steps

    def assign(self, partitions: set[TP], *, overtaken_by: int = 0) -> None:
        self.client.assign(partitions, overtaken_by=overtaken_by)
        self.run(self.consumer.on_partitions_assigned(partitions, 1))
        self.run(self.consumer.perform_seek())

    def deliver(self, tp: TP, next_offset: int, *, reaches_stream: bool) -> None:
        start = self.client.position[tp]
        if next_offset <= start:
            return
        records = [FakeRecord(tp.partition, o) for o in range(start, next_offset) if o not in GAPS[tp]]
        message = self.consumer._to_message(tp, Chunk(records, len(records), next_offset, is_caught_up=False))
        self.client.position[tp] = next_offset
        if not reaches_stream:
            self.run(self.deliver_cut_off(message))
            return
        self.run(self.consumer.callback(message))
        message.incref()
        self.waiting.append(message)

    async def deliver_cut_off(self, message: ConsumerMessage) -> None:
        """Stand for Faust's `wait_first(callback(message), suspend_flow.wait())`, with a stream that is full."""
        deliver_to_stream, self.consumer._deliver_to_stream = self.consumer._deliver_to_stream, wait_for_ever
        callback: Any = self.consumer.callback
        delivering = asyncio.create_task(callback(message))
        await asyncio.sleep(0)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        self.consumer._deliver_to_stream = deliver_to_stream

    def ack(self, index: int) -> None:
        message = self.waiting.pop(index % len(self.waiting))
        chunk: Any = message.value
        self.flushed[message.tp].update(record.offset for record in chunk.content)
        message.ack(self.consumer)

    def ack_all(self) -> None:
        while self.waiting:
            self.ack(0)

    def commit_now(self) -> None:
        self.run(self.consumer.commit())

    async def drain(self) -> None:
        """Stand for the app's: in its time it could flush some of what was taken; the broker answers too."""
        self.broker.answers.set()
        for index in self.to_ack_in_drain:
            if self.waiting:
                self.ack(index)

    def rebalance_to(self, partitions: set[TP], *, acks: list[int], overtaken_by: int = 0) -> None:
        """Revoke, which drains and commits, then assign."""
        self.to_ack_in_drain = acks
        self.run(self.consumer.on_partitions_revoked({*self.client.assigned}))
        if self.commit is not None:
            self.broker.answers.set()  # without an assignment nothing was drained
            self.run(self.commit)
            self.commit = None
        self.broker.has_rebalanced = False
        self.assign(partitions, overtaken_by=overtaken_by)

    # -- rules

    @rule(partition=st.integers(0, 1), count=st.integers(1, 15), reaches_stream=st.booleans() | st.just(True))
    def chunk_arrives(self, partition: int, count: int, *, reaches_stream: bool) -> None:
        """One that doesn't reach the stream was cut off by a rebalance that begins."""
        tp = PARTITIONS[partition]
        if tp in self.client.position:
            self.deliver(tp, min(self.client.position[tp] + count, LOG_END), reaches_stream=reaches_stream)

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 100))
    def chunk_is_acked(self, index: int) -> None:
        """Any of this or of an earlier generation."""
        self.ack(index)

    @precondition(lambda self: self.waiting)
    @rule()
    def everything_is_acked(self) -> None:
        self.ack_all()

    @precondition(lambda self: self.commit is None)
    @rule()
    def commit_succeeds(self) -> None:
        """Not one chunk per commit: as far as everything in front is acked."""
        acked_up_to: dict[TP, int] = {}
        for tp, delivered in self.consumer._delivered.items():
            for message in delivered:
                if not message.acked:
                    break
                acked_up_to[tp] = message.offset + 1
        self.commit_now()
        for tp in self.client.assigned & set(acked_up_to):
            assert self.broker.committed[tp] == acked_up_to[tp]

    @precondition(lambda self: self.commit is None)
    @rule()
    def commit_begins(self) -> None:
        self.broker.answers.clear()
        self.commit = self.loop.create_task(self.consumer.commit())
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.commit is not None)
    @rule()
    def commit_ends(self) -> None:
        assert self.commit is not None
        self.broker.answers.set()
        self.run(self.commit)
        self.commit = None

    @rule(
        partitions=st.sets(st.sampled_from(PARTITIONS)),
        acks=st.lists(st.integers(0, 100), max_size=4),
        is_late=st.booleans(),
        overtaken_by=st.integers(0, 5),
    )
    def group_rebalances(self, partitions: set[TP], acks: list[int], *, is_late: bool, overtaken_by: int) -> None:
        """Late: the broker has given the partitions to others already, and takes no commit any more.

        Overtaken by: records that a fetch brought before Faust has found out where reading goes on; they are dropped.
        """
        self.broker.has_rebalanced = is_late
        self.rebalance_to(partitions, acks=acks, overtaken_by=overtaken_by)

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS)).map(lambda some: some or {*PARTITIONS}))
    def worker_is_killed_and_restarted(self, partitions: set[TP]) -> None:
        if self.commit is not None:
            self.commit.cancel()
            self.run(asyncio.gather(self.commit, return_exceptions=True))
            self.commit = None
            self.broker.answers.set()
        self.waiting.clear()
        self.start_consumer()
        self.assign(partitions)

    @invariant()
    def committed_offset_never_passes_an_unflushed_reading(self) -> None:
        for tp, committed in self.broker.committed.items():
            unflushed = set(range(committed)) - GAPS[tp] - self.flushed[tp]
            assert not unflushed, f"{tp.partition}: {committed} is committed, but {sorted(unflushed)} are not flushed"


TestAckRule = AckRule.TestCase
TestAckRule.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def test_acked_chunks__are_committed_in_one_go() -> None:
    broker = Broker()
    consumer, client = offline_consumer(create_app({}), broker)
    tp = PARTITIONS[0]
    client.assign({tp})
    messages = [consumer._to_message(tp, Chunk(None, 1, o + 1, is_caught_up=False)) for o in range(50)]
    for message in messages:
        await consumer.callback(message)
        message.incref()
    for message in reversed(messages[1:]):
        message.ack(consumer)
    await consumer.commit()
    assert broker.committed == {}
    messages[0].ack(consumer)
    await consumer.commit()
    assert broker.committed == {tp: 50}


async def test_wait_empty__commits_what_its_drain_acked_though_a_commit_is_on_its_way() -> None:
    """That commit began before, and doesn't know of those acks; Faust lets a second one wait, and then do nothing."""
    broker = Broker()
    consumer, client = offline_consumer(create_app({}), broker)
    tp = PARTITIONS[0]
    client.assign({tp})
    messages = [consumer._to_message(tp, Chunk(None, 1, o + 1, is_caught_up=False)) for o in range(2)]
    for message in messages:
        await consumer.callback(message)
        message.incref()
    messages[0].ack(consumer)
    broker.answers.clear()
    committing = asyncio.create_task(consumer.commit())
    await asyncio.sleep(0)

    async def drain() -> None:
        messages[1].ack(consumer)
        asyncio.get_running_loop().call_later(0.05, broker.answers.set)  # when the drain has ended

    consumer.drain = drain
    await asyncio.wait_for(consumer.wait_empty(), 10)
    await committing
    assert broker.committed == {tp: 2}


# ------------------------------------------------------------------------------------------------------ cutting chunks


class Log:
    """A partition as the broker has it: batches with their base offsets, and where it ends."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bytes]] = []
        self.end = 0
        self.stable_end: int | None = None

    def append(self, batch: bytes, record_count: int, *, markers: int = 0) -> None:
        """Add a batch made for `base_offset=self.end`, and behind it offsets that hold no record."""
        self.batches.append((self.end, batch))
        self.end += record_count + markers

    def send(self, *records: Sent, codec: int = 0, markers: int = 0) -> None:
        self.append(batch_of(records, codec, self.end), len(records), markers=markers)

    def answer(self, partition: int, offset: int) -> tuple[Any, ...]:
        data = b"".join(batch for base, batch in self.batches if base >= offset)
        stable = self.end if self.stable_end is None else self.stable_end
        return partition, 0, self.end, stable, [], data


def offsets_of(records: Sequence[RawRecord], _partition: int) -> list[int]:
    return [record.offset for record in records]


class OfflineKafka:
    """Real fetcher, subscription and thread of the consumer; only the broker's answers are made here."""

    def __init__(self) -> None:
        self.logs = {tp: Log() for tp in PARTITIONS}
        leader = SimpleNamespace(leader_for_partition=lambda _: 0)
        loop = asyncio.get_running_loop()
        client: Any = SimpleNamespace(
            _loop=loop, _metadata_max_age_ms=1000, cluster=leader, send=self._answer, force_metadata_update=do_nothing
        )
        self.subscription = SubscriptionState()
        self.fetcher = Fetcher(
            client, self.subscription, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        app = create_app({})
        self.thread = ConsumerThread(app.consumer)  # type: ignore[arg-type]
        self.thread.consumer = SimpleNamespace(flow_active=True, decode=offsets_of)  # type: ignore[assignment]
        self.client: Any = SimpleNamespace(_fetcher=self.fetcher, _closed=False, _subscription=self.subscription)
        self.thread._consumer = self.client
        self.subscription.subscribe({TOPIC})

    def assign(self, *tps: TP) -> None:
        self.subscription.assign_from_subscribed([TopicPartition(*tp) for tp in tps])
        for tp in tps:
            self.subscription.seek(TopicPartition(*tp), 0)

    async def _answer(self, _node: int, request: Any) -> Any:
        """Answer as a broker does: at once when there is something, else after a while."""
        asked = [(TP(topic, p), offset) for topic, partitions in request.topics for p, offset, _ in partitions]
        if not any(self.logs[tp].end > offset for tp, offset in asked):
            await asyncio.sleep(0.02)
        answers = [self.logs[tp].answer(tp.partition, offset) for tp, offset in asked]
        return SimpleNamespace(API_VERSION=4, topics=[(TOPIC, answers)])

    async def fetch(self, timeout_s: float = 5.0) -> dict[TP, Chunk]:
        active = {TP(*tp) for tp in self.subscription.assigned_partitions()}
        fetched = await self.thread._fetch_records(self.client, active, timeout=timeout_s, max_records=5000)
        return {tp: chunk for tp, (chunk,) in fetched.items()}

    async def fetch_until(self, chunk_count: int) -> dict[TP, Chunk]:
        """Fetch until so many partitions have brought a chunk; the last of each is given."""
        chunks: dict[TP, Chunk] = {}
        while len(chunks) < chunk_count:
            chunks |= await self.fetch()
        return chunks


@pytest.fixture
async def kafka() -> AsyncIterator[OfflineKafka]:
    kafka = OfflineKafka()
    yield kafka
    await kafka.fetcher.close()


SHORT = Sent(1, b"key", b"value")
FIRST, SECOND = PARTITIONS


async def test_fetch__gives_one_chunk_per_partition(kafka: OfflineKafka) -> None:
    kafka.logs[FIRST].send(SHORT, SHORT)
    kafka.logs[FIRST].send(SHORT, markers=1)
    kafka.assign(FIRST, SECOND)
    (chunk,) = (await kafka.fetch_until(1)).values()
    assert (chunk.content, chunk.record_count, chunk.next_offset, chunk.is_caught_up) == ([0, 1, 2], 3, 3, False)
    assert 24 <= chunk.size_bytes <= 100, "about what keys and values take"
    kafka.logs[FIRST].send(SHORT)
    kafka.logs[SECOND].send(Sent(1, None, None))
    chunks = await kafka.fetch_until(2)
    assert [chunks[tp].content for tp in PARTITIONS] == [[4], [0]]


async def test_fetch__past_markers_only_gives_an_empty_chunk_so_that_the_lag_becomes_zero(kafka: OfflineKafka) -> None:
    kafka.logs[FIRST].send(SHORT)
    kafka.assign(FIRST)
    await kafka.fetch_until(1)
    # A control batch, as the broker writes it at a transaction's end: it has the sixth bit set.
    kafka.logs[FIRST].append(sealed(1, b"\0\x30", batch_of([Sent(1, b"\0\0\0\1", b"\0\0\0\0\0\0")])[23:]), 1)
    assert await kafka.fetch_until(1) == {FIRST: Chunk(None, 0, 2, is_caught_up=True)}
    assert await kafka.fetch(timeout_s=0.1) == {}


@pytest.mark.parametrize(("held_back", "is_caught_up"), [(None, True), (FIRST, False), (SECOND, False)])
async def test_fetch__has_caught_up_when_no_partition_holds_more(
    kafka: OfflineKafka, held_back: TP | None, *, is_caught_up: bool
) -> None:
    kafka.logs[FIRST].send(SHORT)
    kafka.assign(FIRST, SECOND)
    await kafka.fetch_until(1)
    if held_back is not None:
        kafka.logs[held_back].stable_end = 100
    await kafka.fetch(timeout_s=0.1)  # so that both ends are known
    kafka.logs[FIRST].send(SHORT)
    assert (await kafka.fetch_until(1))[FIRST].is_caught_up is is_caught_up


async def test_fetch__of_a_partition_that_was_taken_away_is_dropped(kafka: OfflineKafka) -> None:
    kafka.logs[FIRST].send(SHORT)
    kafka.logs[SECOND].send(SHORT)
    kafka.assign(FIRST)
    await wait_until_async(lambda: bool(kafka.fetcher._records), 5, "a fetch")
    kafka.assign(SECOND)
    assert set(await kafka.fetch_until(1)) == {SECOND}


async def test_fetch__is_bounded_in_bytes_and_loses_nothing(kafka: OfflineKafka) -> None:
    """Two batches of some kB, of 32 MB each: what is taken at once must not grow with what they hold."""
    large = [Sent(n, None, b"\0" * 32_768) for n in range(1000)]
    kafka.logs[FIRST].send(*large, codec=ZSTD)
    kafka.logs[SECOND].send(*large, codec=ZSTD)
    kafka.assign(FIRST, SECOND)
    seen: dict[TP, list[int]] = {FIRST: [], SECOND: []}
    while sum(map(len, seen.values())) < 2 * len(large):
        chunks = await kafka.fetch()
        assert sum(chunk.size_bytes for chunk in chunks.values()) <= 2 * STEP_BYTES
        for tp, chunk in chunks.items():
            seen[tp] += chunk.content
    assert seen == {tp: list(range(1000)) for tp in PARTITIONS}


async def test_fetch__is_bounded_in_records(kafka: OfflineKafka) -> None:
    kafka.logs[FIRST].send(*[SHORT] * 4000)
    kafka.logs[FIRST].send(*[SHORT] * 4000)
    kafka.assign(FIRST)
    assert [len((await kafka.fetch_until(1))[FIRST].content) for _ in range(2)] == [5000, 3000]


async def test_corrupt_batch__is_raised_when_all_before_it_has_been_handed_over(kafka: OfflineKafka) -> None:
    log = kafka.logs[FIRST]
    log.send(SHORT)
    log.append(batch_of([SHORT], base_offset=1)[:-1] + b"?", 1)
    kafka.assign(FIRST)
    assert (await kafka.fetch_until(1))[FIRST].content == [0]
    with pytest.raises(UnreadableBatch, match=rf"topic '{TOPIC}', partition 0, offset 1:"):
        await kafka.fetch()


async def test_group__that_is_refused_while_a_fetch_waits_does_not_end_the_worker(kafka: OfflineKafka) -> None:
    kafka.assign(FIRST)
    fetching = asyncio.create_task(kafka.fetch())
    await wait_until_async(lambda: bool(kafka.fetcher._fetch_waiters), 5, "a fetch that waits")
    kafka.subscription.abort_waiters(GroupAuthorizationFailedError("g"))
    assert await fetching == {}


# ------------------------------------------------------------------------------------- what is relied upon of libraries


@pytest.mark.parametrize(
    ("distribution", "version"), [("faust-streaming", "0.15."), ("aiokafka", "0.14."), ("mode-streaming", "0.7.")]
)
def test_library__is_of_the_release_that_was_read(distribution: str, version: str) -> None:
    assert importlib.metadata.version(distribution).startswith(version)


# ------------------------------------------------------------------------------------------------- offsets, membership


async def consumer_of_one_acked_chunk(broker: Broker, environ: Mapping[str, str] | None = None) -> ChunkConsumer:
    """Give a consumer that has taken the first record of a partition, and has nothing left but to commit it."""
    consumer, client = offline_consumer(create_app(environ or {}), broker)
    consumer.drain = do_nothing
    client.assign({FIRST})
    message = consumer._to_message(FIRST, Chunk(None, 1, 1, is_caught_up=True))
    await consumer.callback(message)
    consumer.ack(message)
    return consumer


async def test_commit__that_is_refused_for_a_permission_is_repeated_until_it_succeeds() -> None:
    broker = Broker()
    consumer = await consumer_of_one_acked_chunk(broker)
    broker.refusal = GroupAuthorizationFailedError("g")
    assert not await consumer.commit()
    broker.refusal = None
    assert await consumer.commit()
    assert broker.committed == {FIRST: 1}


async def test_commit__is_made_once() -> None:
    """At a revoke Faust has forgotten what is committed. A deleted topic takes no commit: aiokafka tries for ever."""
    broker = Broker()
    consumer = await consumer_of_one_acked_chunk(broker)
    assert await consumer.commit()
    await consumer.on_partitions_revoked({FIRST})
    assert broker.commit_count == 1


async def test_commit__that_the_broker_does_not_take_does_not_hold_up_a_rebalance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_cache.kafka.consumer_thread._COMMIT_WITHIN_S", 0.01)
    broker = Broker()
    consumer = await consumer_of_one_acked_chunk(broker)
    broker.answers.clear()
    await asyncio.wait_for(consumer.on_partitions_revoked({FIRST}), 10)


async def test_last_commit__waits_no_longer_than_there_is_time() -> None:
    broker = Broker()
    consumer = await consumer_of_one_acked_chunk(broker, {"SHUTDOWN_TIMEOUT_S": "8"})
    broker.answers.clear()
    consumer.app._stopped.set()  # type: ignore[attr-defined]
    await asyncio.wait_for(consumer.wait_empty(), 5)
    assert broker.committed == {}


async def test_commit__of_partitions_that_are_gone_by_then_is_no_fault() -> None:
    """They may go between the main thread's look and the consumer's; aiokafka takes no commit of nothing."""
    consumer, _ = offline_consumer(create_app({}))
    assert not await consumer._thread._commit({PARTITIONS[0]: 1})


def test_consumer__that_looks_for_its_first_broker_counts_as_coordinating() -> None:
    consumer, client = offline_consumer(create_app({}))
    client._coordinator = None  # type: ignore[assignment]
    assert consumer.is_coordinating


async def test_wait_empty__of_a_consumer_that_stops_does_not_drain_again() -> None:
    """Faust asks twice when it stops. The second time the flusher has gone, and could only be waited for in vain."""
    consumer, _ = offline_consumer(create_app({}))
    consumer.drain = wait_for_ever
    consumer._stopped.set()
    await asyncio.wait_for(consumer.wait_empty(), 10)


async def test_stop__of_the_thread_does_not_wait_for_who_swallows_a_cancellation() -> None:
    """As aiokafka's coordinator does, which then asks a broker that is silent to let it go."""
    consumer, _ = offline_consumer(create_app({}))

    async def go_on() -> None:
        with suppress(asyncio.CancelledError):
            await wait_for_ever()
        await wait_for_ever()

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await consumer._thread._gather_remaining_tasks()
    is_ended = task.done()
    task.cancel()
    assert is_ended
