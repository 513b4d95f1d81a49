"""The ack rule, on Faust's own commit path; how chunks are cut; and what is relied upon of Faust and aiokafka.

The rule: the committed offset never passes a reading that is not flushed, and reaches the end when all are acked.
"""

import asyncio
import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import aiokafka
import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.subscription_state import Assignment, TopicPartitionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_cache.app import StreamCache, create_app
from stream_cache.batching import (
    Chunk,
    ChunkConsumer,
    ChunkSchema,
    ChunkTransport,
    _as_record,
    _ChunkConsumerThread,
    _Record,
)
from tests.fakes import FakeRecord

T = TypeVar("T")
TOPIC = "iot_validated_data"
PARTITIONS = [TP(TOPIC, 0), TP(TOPIC, 1)]
#: Length of each partition's log, and which of its offsets hold no record (compacted, aborted, transaction markers).
LOG_END = 40
GAPS = {PARTITIONS[0]: {0, 5, 6, 7, 20, 39}, PARTITIONS[1]: set(range(10, 25))}


class OfflineConsumer(ChunkConsumer):
    """The consumer of the service, whose broker is a dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.assigned: set[TP] = set()
        self.broker: dict[TP, int] = {}
        self.sought_to_beginning: set[TP] = set()
        self.has_rebalanced = False
        self.broker_answers = asyncio.Event()
        self.broker_answers.set()

    def assignment(self) -> set[TP]:
        return self.assigned

    async def _seek_to_beginning(self, tps: Sequence[TP]) -> None:
        assert not self.broker.keys() & set(tps), "reading would begin anew though something is committed"
        self.sought_to_beginning.update(tps)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {tp: self.broker.get(tp, 0) for tp in self.assigned}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        await self.broker_answers.wait()
        if self.has_rebalanced:  # "already rebalanced", where Faust's driver returns False
            return False
        self.broker.update(offsets)
        return True


class OfflineProducer:
    """What a commit waits for."""

    async def flush(self) -> None: ...


async def do_nothing(*_: Any, **__: Any) -> None: ...


async def wait_for_ever(*_: Any) -> None:
    await asyncio.Event().wait()


def offline_consumer(app: StreamCache) -> OfflineConsumer:
    app.producer = OfflineProducer()  # type: ignore[assignment]
    return OfflineConsumer(app.transport, do_nothing, do_nothing, do_nothing)


class AckRule(RuleBasedStateMachine):
    """Any order of chunks, acks, commits and rebalances; of each offset it is known whether its reading is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.consumer = offline_consumer(create_app({}))
        self.consumer.drain = self.drain
        self.position: dict[TP, int] = {}
        self.waiting: list[ConsumerMessage] = []
        self.to_ack_in_drain: list[int] = []
        self.flushed: defaultdict[TP, set[int]] = defaultdict(set)
        self.commit: asyncio.Task[bool] | None = None
        self.assign({*PARTITIONS})

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
        assert self.consumer.broker == dict.fromkeys(PARTITIONS, LOG_END)
        self.loop.close()
        asyncio.set_event_loop(None)

    # -- steps

    def assign(self, partitions: set[TP]) -> None:
        self.consumer.assigned = partitions
        self.run(self.consumer.on_partitions_assigned(partitions, 1))
        self.run(self.consumer.perform_seek())
        self.position = {tp: self.consumer.broker.get(tp, 0) for tp in partitions}

    def deliver(self, tp: TP, next_offset: int, *, reaches_stream: bool) -> None:
        start = self.position[tp]
        if next_offset <= start:
            return
        records = [FakeRecord(tp.partition, o) for o in range(start, next_offset) if o not in GAPS[tp]]
        message = self.consumer._to_message(tp, Chunk(records, len(records), next_offset, is_caught_up=False))
        self.position[tp] = next_offset
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
        self.consumer.broker_answers.set()
        for index in self.to_ack_in_drain:
            if self.waiting:
                self.ack(index)

    def rebalance_to(self, partitions: set[TP], *, acks: list[int]) -> None:
        self.to_ack_in_drain = acks
        self.run(self.consumer.wait_empty())
        if self.commit is not None:
            self.run(self.commit)
            self.commit = None
        self.consumer.has_rebalanced = False
        self.run(self.consumer.on_partitions_revoked({*self.consumer.assigned}))
        self.assign(partitions)

    # -- rules

    @rule(partition=st.integers(0, 1), count=st.integers(1, 15), reaches_stream=st.booleans() | st.just(True))
    def chunk_arrives(self, partition: int, count: int, *, reaches_stream: bool) -> None:
        """One that doesn't reach the stream was cut off by a rebalance that begins."""
        tp = PARTITIONS[partition]
        if tp in self.position:
            self.deliver(tp, min(self.position[tp] + count, LOG_END), reaches_stream=reaches_stream)

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
        for tp in self.consumer.assigned & set(acked_up_to):
            assert self.consumer.broker[tp] == acked_up_to[tp]

    @precondition(lambda self: self.commit is None)
    @rule()
    def commit_begins(self) -> None:
        self.consumer.broker_answers.clear()
        self.commit = self.loop.create_task(self.consumer.commit())
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.commit is not None)
    @rule()
    def commit_ends(self) -> None:
        assert self.commit is not None
        self.consumer.broker_answers.set()
        self.run(self.commit)
        self.commit = None

    @rule(
        partitions=st.sets(st.sampled_from(PARTITIONS)),
        acks=st.lists(st.integers(0, 100), max_size=4),
        is_late=st.booleans(),
    )
    def group_rebalances(self, partitions: set[TP], acks: list[int], *, is_late: bool) -> None:
        """Late: the broker has given the partitions to others already, and takes no commit any more."""
        self.consumer.has_rebalanced = is_late
        self.rebalance_to(partitions, acks=acks)

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS)).map(lambda some: some or {*PARTITIONS}))
    def worker_is_killed_and_restarted(self, partitions: set[TP]) -> None:
        broker = self.consumer.broker
        if self.commit is not None:
            self.commit.cancel()
            self.run(asyncio.gather(self.commit, return_exceptions=True))
            self.commit = None
        self.waiting.clear()
        self.consumer = offline_consumer(create_app({}))
        self.consumer.drain = self.drain
        self.consumer.broker = broker
        self.assign(partitions)

    @invariant()
    def committed_offset_never_passes_an_unflushed_reading(self) -> None:
        for tp, committed in self.consumer.broker.items():
            unflushed = set(range(committed)) - GAPS[tp] - self.flushed[tp]
            assert not unflushed, f"{tp.partition}: {committed} is committed, but {sorted(unflushed)} are not flushed"


TestAckRule = AckRule.TestCase
TestAckRule.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def test_acked_chunks__are_committed_in_one_go() -> None:
    consumer = offline_consumer(create_app({}))
    tp = PARTITIONS[0]
    consumer.assigned = {tp}
    messages = [consumer._to_message(tp, Chunk(None, 1, o + 1, is_caught_up=False)) for o in range(50)]
    for message in messages:
        await consumer.callback(message)
        message.incref()
    for message in reversed(messages[1:]):
        message.ack(consumer)
    await consumer.commit()
    assert consumer.broker == {}
    messages[0].ack(consumer)
    await consumer.commit()
    assert consumer.broker == {tp: 50}


async def test_wait_empty__commits_what_its_drain_acked_though_a_commit_is_on_its_way() -> None:
    """That commit began before, and doesn't know of those acks; Faust lets a second one wait, and then do nothing."""
    consumer = offline_consumer(create_app({}))
    tp = PARTITIONS[0]
    consumer.assigned = {tp}
    messages = [consumer._to_message(tp, Chunk(None, 1, o + 1, is_caught_up=False)) for o in range(2)]
    for message in messages:
        await consumer.callback(message)
        message.incref()
    messages[0].ack(consumer)
    consumer.broker_answers.clear()
    committing = asyncio.create_task(consumer.commit())
    await asyncio.sleep(0)

    async def drain() -> None:
        messages[1].ack(consumer)
        consumer.broker_answers.set()

    consumer.drain = drain
    await asyncio.wait_for(consumer.wait_empty(), 10)
    await committing
    assert consumer.broker == {tp: 2}


async def test_chunk__reaches_the_stream_as_one_message() -> None:
    taken: list[ConsumerMessage] = []

    async def take(message: ConsumerMessage) -> None:
        taken.append(message)

    app = create_app({})
    consumer = ChunkConsumer(app.transport, take, do_nothing, do_nothing)  # type: ignore[arg-type]
    chunk = Chunk("what the records say", 2, 9, is_caught_up=True)
    await consumer.callback(consumer._to_message(PARTITIONS[1], chunk))
    (message,) = taken
    assert (message.topic, message.partition, message.offset) == (TOPIC, 1, 8)
    assert ChunkSchema().loads_value(app, message) is chunk
    assert ChunkSchema().loads_key(app, message) is None


# ------------------------------------------------------------------------------------------------------ cutting chunks


class FakeState:
    """aiokafka's state of a partition."""

    has_valid_position = True

    def __init__(self, position: int, lso: int | None) -> None:
        self.position, self.lso = position, lso


class FakeKafka:
    """Answers fetches from a script: records by partition, and each partition's position and end afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: dict[TP, list[FakeRecord]] = {}
        self.states: dict[TP, FakeState] = {}
        self.thread: Any = _ChunkConsumerThread.__new__(_ChunkConsumerThread)
        self.thread._handed_over = {}
        self.client: Any = SimpleNamespace(_fetcher=SimpleNamespace(_records={}))
        decode = lambda records: [record.offset for record in records]  # noqa: E731 - one line says it
        monkeypatch.setattr(self.thread, "consumer", SimpleNamespace(decode=decode), raising=False)
        monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", self._fetch)
        monkeypatch.setattr(_ChunkConsumerThread, "partition_states", lambda _: self.states)

    async def _fetch(self, *_: Any, **__: Any) -> dict[TP, list[FakeRecord]]:
        return self.fetched

    async def fetch(self) -> dict[TP, list[Chunk]]:
        chunks: dict[TP, list[Chunk]] = await self.thread._fetch_records(self.client, set())
        return chunks


async def test_fetch__gives_one_chunk_per_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, (first, second) = FakeKafka(monkeypatch), PARTITIONS
    records = [FakeRecord(offset=offset) for offset in (0, 1, 4)]
    kafka.fetched = {first: records}
    kafka.states = {first: FakeState(5, 5), second: FakeState(0, 0)}
    assert await kafka.fetch() == {first: [Chunk([0, 1, 4], 3, 5, is_caught_up=True, size_bytes=6)]}


async def test_fetch__says_how_many_bytes_a_chunk_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, (first, _) = FakeKafka(monkeypatch), PARTITIONS
    kafka.fetched = {first: [FakeRecord(value=b"12345"), FakeRecord(offset=1, value=None)]}
    kafka.states = {first: FakeState(2, 2)}
    assert (await kafka.fetch())[first][0].size_bytes == 5


async def test_fetch__of_nothing_new_gives_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, (first, _) = FakeKafka(monkeypatch), PARTITIONS
    kafka.fetched, kafka.states = {first: [FakeRecord()]}, {first: FakeState(1, 1)}
    await kafka.fetch()
    kafka.fetched = {}
    assert await kafka.fetch() == {}


async def test_fetch__past_markers_only_gives_an_empty_chunk_so_that_the_lag_becomes_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka, (first, _) = FakeKafka(monkeypatch), PARTITIONS
    kafka.fetched, kafka.states = {first: [FakeRecord()]}, {first: FakeState(1, 2)}
    await kafka.fetch()
    kafka.fetched, kafka.states = {}, {first: FakeState(2, 2)}
    assert await kafka.fetch() == {first: [Chunk(None, 0, 2, is_caught_up=True)]}
    assert await kafka.fetch() == {}


@pytest.mark.parametrize(
    ("first", "second", "is_caught_up"),
    [((5, 5), (7, 7), True), ((5, 6), (7, 7), False), ((5, 5), (7, 9), False), ((5, 5), (7, None), False)],
)
async def test_fetch__has_caught_up_when_no_partition_holds_more(
    monkeypatch: pytest.MonkeyPatch, first: tuple[int, int], second: tuple[int, int | None], *, is_caught_up: bool
) -> None:
    kafka = FakeKafka(monkeypatch)
    kafka.fetched = {PARTITIONS[0]: [FakeRecord(offset=4)]}
    kafka.states = {PARTITIONS[0]: FakeState(*first), PARTITIONS[1]: FakeState(*second)}
    chunks = await kafka.fetch()
    assert [chunk.is_caught_up for (chunk,) in chunks.values()] == [is_caught_up] * 2


async def test_fetch__of_a_partition_that_was_taken_away_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, (first, second) = FakeKafka(monkeypatch), PARTITIONS
    kafka.fetched, kafka.states = {first: [FakeRecord()]}, {second: FakeState(0, 0)}
    assert await kafka.fetch() == {}


# ------------------------------------------------------------------------------------- what is relied upon of libraries


@pytest.mark.parametrize(
    ("distribution", "version"), [("faust-streaming", "0.15."), ("aiokafka", "0.14."), ("mode-streaming", "0.7.")]
)
def test_library__is_of_the_release_that_was_read(distribution: str, version: str) -> None:
    assert importlib.metadata.version(distribution).startswith(version)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            driver.Consumer,
            """_add_gap _commit _filter_tps_with_pending_acks _new_consumer_thread _new_offset _should_commit
            _to_message ack commit_and_end_transactions getmany maybe_wait_for_commit_to_finish on_partitions_assigned
            on_partitions_revoked wait_empty""",
        ),
        (
            driver.AIOKafkaConsumerThread,
            "_create_worker_consumer _ensure_consumer _fetch_records on_partitions_assigned",
        ),
        (driver.Transport, "Consumer create_consumer"),
        (TopicPartitionState, "has_valid_position position"),
        (Assignment, "state_value tps"),
    ],
)
def test_method__is_still_there(owner: type, names: str) -> None:
    assert [name for name in names.split() if not hasattr(owner, name)] == []


def test_consumers_instance__still_has_the_attributes_that_are_written() -> None:
    """A renamed one would be set in vain."""
    consumer = create_app({}).consumer
    assert type(consumer) is ChunkConsumer
    assert isinstance(consumer.transport, ChunkTransport)
    assert len(consumer._unacked_messages) == 0
    assert consumer._committed_offset == {}
    source = inspect.getsource(aiokafka.AIOKafkaConsumer)
    for name in ("_isolation_level", "_fetch_max_wait_ms"):
        assert f"self.{name} = " in source  # the argument is kept under this name,
        assert f"={'self.' + name}," in source  # and is read when the fetcher is made, at start
    assert "self.lso = " in inspect.getsource(TopicPartitionState)


async def test_worker_consumer__is_made_with_our_settings() -> None:
    """`read_committed`, and the poll timeout, whatever Faust would have set."""
    app = create_app({"KAFKA_CONSUMER_POLL_TIMEOUT_S": "2.5"})
    app.finalize()
    consumer = app.consumer
    assert isinstance(consumer, ChunkConsumer)
    thread = _ChunkConsumerThread(consumer)
    client = thread._create_worker_consumer(consumer.transport)  # type: ignore[arg-type]
    try:
        assert client._isolation_level == "read_committed"
        assert client._fetch_max_wait_ms == 2500
        assert client._group_id == "cache_service_group"
        assert client._enable_auto_commit is False
        assert client._auto_offset_reset == "earliest"
        assert client._max_poll_records == 5000
    finally:
        await client.stop()


async def test_getmany__fetches_for_as_long_as_our_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = offline_consumer(create_app({"KAFKA_CONSUMER_POLL_TIMEOUT_S": "0.25"}))
    asked: list[float] = []

    async def note(timeout: float) -> tuple[None, None]:  # noqa: ASYNC109 - Faust's signature
        asked.append(timeout)
        return None, None

    monkeypatch.setattr(consumer, "_wait_next_records", note)
    assert [item async for item in consumer.getmany(timeout=1.0)] == []
    assert asked == [0.25]


def test_consumer_message__still_takes_its_arguments_in_this_order() -> None:
    assert list(inspect.signature(ConsumerMessage.__init__).parameters)[1:12] == [
        *("topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value", "checksum"),
        *("serialized_key_size", "serialized_value_size"),
    ]


def test_faust__still_marks_one_offset_too_many() -> None:
    """The fault that the own bookkeeping goes round (faust-streaming/faust#282). Mended upstream? Then look again."""
    source = inspect.getsource(faust_consumer.Consumer._add_gap)
    assert "gap_for_tp.addi(offset_from, offset_to + 1)" in source
    assert "self._add_gap(tp, r_offset + 1, offset)" in inspect.getsource(faust_consumer.Consumer._drain_messages)


def test_membership__can_be_asked_before_the_consumer_has_started() -> None:
    """A broker that is slow to answer must not crash the watchdog, and the worker with it."""
    app = create_app({})
    app.membership.check()
    assert app.membership.state == "joining the group"
    assert app.membership.assigned_partitions() == frozenset()
    assert app.membership.committed_offsets() == {}
    assert not app.membership.has_died


def test_record__of_a_result_not_yet_read_is_ours_and_small() -> None:
    """Holds what is relied upon: aiokafka converts records one by one, by a method of the result's records."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    batch.append(7, 1234, b"key", b"value", [("header", b"x")])
    records = PartitionRecords(PARTITIONS[1], MemoryRecords(bytes(batch.build())), [], 0, None, None, False, 0)
    records._consumer_record = _as_record
    assert list(records) == [_Record(1, 7, 1234, b"key", b"value")]


async def test_partition_without_a_commit__is_read_from_its_beginning_after_a_rebalance() -> None:
    """What a fetch brought that the rebalance overtook is dropped; aiokafka leaves the position behind it."""
    consumer = offline_consumer(create_app({}))
    consumer.assigned, consumer.broker = {*PARTITIONS}, {PARTITIONS[0]: 7}
    await consumer.perform_seek()
    assert consumer.sought_to_beginning == {PARTITIONS[1]}
