"""The publisher of bad records: in order, whole where the broker takes it, until the broker has them (section 3)."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from faust.exceptions import ProducerSendError

from stream_cache.errors import BadRecord
from stream_cache.kafka import error_topic
from stream_cache.kafka.error_topic import ErrorTopic
from stream_cache.metrics import Metrics
from stream_cache.readings.reading import Record
from tests.fakes import NOW_MS, FakeRecord, decode_all
from tests.waiting import wait_until_async

Headers = list[tuple[str, bytes]]
OBJECT = b'{"request_id": "r-1", "timestamp": "yesterday", "device_id": "d", "values": [1]}'
NOT_JSON = b"{"


class Sent(NamedTuple):
    key: bytes | None
    value: bytes
    headers: Headers

    @property
    def offset(self) -> int:
        return int(dict(self.headers)["source.offset"])

    @property
    def original(self) -> dict[str, Any]:
        original: dict[str, Any] = json.loads(self.value)["original_message"]
        return original


class FakeTopic:
    """The error topic. As in the real client, records that are sent without a pause make one batch.

    `answer` says what becomes of a batch, None is success; `refuse` what the client says to a record at once.
    """

    def __init__(self) -> None:
        self.batches: list[list[Sent]] = []
        self.accepted: list[Sent] = []
        self.answer: Callable[[list[Sent]], Exception | None] = lambda _batch: None
        self.refuse: Callable[[Sent], Exception | None] = lambda _sent: None
        self.is_open = asyncio.Event()
        self.is_open.set()
        self._batch: list[tuple[Sent, asyncio.Future[None]]] = []

    async def send(self, key: bytes | None, value: bytes, headers: Headers) -> Awaitable[Any]:
        sent = Sent(key, value, headers)
        if error := self.refuse(sent):
            raise ProducerSendError("Error while sending") from error
        if not self._batch:
            asyncio.get_running_loop().create_task(self._take_batch())
        broker_has_it = asyncio.get_running_loop().create_future()
        self._batch.append((sent, broker_has_it))
        return broker_has_it

    async def _take_batch(self) -> None:
        await self.is_open.wait()
        batch, self._batch = self._batch, []
        self.batches.append([sent for sent, _ in batch])
        error = self.answer(self.batches[-1])
        for sent, broker_has_it in batch:
            if error:
                broker_has_it.set_exception(error)
            else:
                self.accepted.append(sent)
                broker_has_it.set_result(None)


class Bench:
    """A publisher to a fake topic."""

    def __init__(self, original_max_bytes: int) -> None:
        self.topic, self.metrics = FakeTopic(), Metrics()
        self.letters = ErrorTopic(
            self.topic.send,
            source_topic="iot_validated_data",
            error_topic="iot_errors",
            original_max_bytes=original_max_bytes,
            metrics=self.metrics,
        )

    async def publish(self, *values: bytes) -> None:
        """Publish these, with offsets from 0 on, and wait until the broker has them."""
        await asyncio.wait_for(
            self.letters.publish([refused(value, offset) for offset, value in enumerate(values)]), 10
        )

    @property
    def accepted_offsets(self) -> list[int]:
        return [sent.offset for sent in self.topic.accepted]


@asynccontextmanager
async def running(original_max_bytes: int = 262_144) -> AsyncIterator[Bench]:
    bench = Bench(original_max_bytes)
    async with bench.letters:
        yield bench


def refused(value: bytes, offset: int = 0) -> tuple[Record, BadRecord]:
    """Decode a bad record."""
    ((record, bad),) = decode_all([FakeRecord(2, offset, NOW_MS, b"d", value)]).bad
    return record, bad


def not_now(_: object) -> Exception:
    error: Exception = NotLeaderForPartitionError("not now")
    return error


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_topic, "_RETRY_S", 0.001)


# ---------------------------------------------------------------------------------------- until the broker has them


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("refuses_late", [True, False])
async def test_refusing_topic__is_tried_until_it_takes_them_in_order(*, refuses_late: bool) -> None:
    async with running() as bench:
        topic, letters = bench.topic, bench.letters
        tried = []

        def refuse(sent: object) -> Exception:
            tried.append(sent)
            return not_now(sent)

        if refuses_late:
            topic.answer = refuse
        else:
            topic.refuse = refuse
        published = [letters.publish([refused(OBJECT, n), refused(OBJECT, n + 1)]) for n in (0, 2, 4)]
        assert letters.trouble is None
        await wait_until_async(lambda: len(tried) > 9, 10, "some tries", interval_s=0.001)
        assert not any(future.done() for future in published)
        assert letters.is_publishing
        assert letters.trouble is not None
        assert letters.trouble.startswith("'iot_errors' (KAFKA_ERROR_TOPIC) refuses: NotLeaderForPartitionError")
        assert bench.metrics.registry.get_sample_value("stream_cache_errors_total", {"kind": "error_topic"})
        topic.answer = topic.refuse = lambda _: None
        await asyncio.wait_for(asyncio.gather(*published), 10)
        assert letters.trouble is None
        assert not letters.is_publishing
        assert bench.accepted_offsets == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("quick_retries")
async def test_one_refused_record__does_not_send_the_others_twice() -> None:
    """Of a topic with several partitions one may be without a leader."""
    async with running() as bench:
        refusals = iter([not_now, not_now])
        sent_of = bench.topic.send

        async def send(key: bytes | None, value: bytes, headers: Headers) -> Awaitable[Any]:
            if dict(headers)["source.offset"] == b"1" and (error := next(refusals, None)):
                failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                failed.set_exception(error(None))
                return failed
            return await sent_of(key, value, headers)

        bench.letters._send = send
        await bench.publish(OBJECT, OBJECT, OBJECT)
        assert sorted(bench.accepted_offsets) == [0, 1, 2]


async def test_missing_topic__is_asked_for_once_a_try_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits 10 s for news of it, for each record anew."""
    monkeypatch.setattr(error_topic, "_RETRY_S", 10.0)
    async with running() as bench:
        asked = []

        def refuse(sent: Sent) -> Exception:
            asked.append(sent)
            error: Exception = UnknownTopicOrPartitionError()
            return error

        bench.topic.refuse = refuse
        bench.letters.publish([refused(OBJECT, offset) for offset in range(100)])
        await wait_until_async(lambda: bench.letters.trouble, 10, "the trouble", interval_s=0.001)
        assert bench.letters.trouble == "'iot_errors' (KAFKA_ERROR_TOPIC) does not exist: create it"
        assert len(asked) == 1


async def test_silent_broker__is_named_while_the_client_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_topic, "_SLOW_S", 0.01)
    async with running() as bench:
        bench.topic.is_open.clear()
        published = bench.letters.publish([refused(OBJECT)])
        await wait_until_async(lambda: bench.letters.trouble, 10, "the trouble", interval_s=0.001)
        assert "has not answered" in str(bench.letters.trouble)
        bench.topic.is_open.set()
        await asyncio.wait_for(published, 10)
        assert bench.letters.trouble is None
        assert len(bench.topic.batches) == 1


async def test_stop__cancels_what_is_not_published() -> None:
    async with running() as bench:
        bench.topic.is_open.clear()
        published = [bench.letters.publish([refused(OBJECT)]) for _ in range(2)]
        await asyncio.sleep(0)
    assert all(future.cancelled() for future in published)


async def test_dead_client__crashes_the_worker() -> None:
    """Its sender has died: whatever is sent from then on fails with the bare class of aiokafka's errors."""
    async with running() as bench:
        bench.topic.answer = lambda _batch: KafkaError("Unexpected error during batch delivery")
        published = bench.letters.publish([refused(OBJECT)])
        await wait_until_async(lambda: bench.letters.crashed, 10, "the crash", interval_s=0.001)
    assert published.cancelled()


# ------------------------------------------------------------------------------------------------------ how large


def too_large(max_bytes: int, error: type[Exception]) -> Callable[[list[Sent]], Exception | None]:
    def answer(batch: list[Sent]) -> Exception | None:
        is_too_large = sum(len(sent.value) + len(sent.key or b"") for sent in batch) > max_bytes
        return error("too large") if is_too_large else None

    return answer


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("error", [MessageSizeTooLargeError, RecordListTooLargeError, KafkaConnectionError])
async def test_batch_too_large__is_sent_in_smaller_ones_and_nothing_is_cut(error: type[Exception]) -> None:
    """The last one: a broker closes the connection on a request beyond its socket.request.max.bytes."""
    async with running() as bench:
        bench.topic.answer = too_large(5_000, error)
        await bench.publish(*[OBJECT] * 200)
        assert bench.accepted_offsets == list(range(200))
        assert all(sent.original == json.loads(OBJECT) for sent in bench.topic.accepted)
        bench.topic.answer = lambda _batch: None
        await bench.publish(*[OBJECT] * 2_000)
        assert len(bench.topic.batches[-1]) > 20, "a topic that takes more gets more again"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("is_by_the_client", [True, False])
async def test_record_too_large_by_itself__is_cut_and_its_neighbours_are_not(*, is_by_the_client: bool) -> None:
    """The topic may take less than ERROR_ORIGINAL_MAX_BYTES: better published in part than never."""
    async with running() as bench:
        limit = too_large(20_000, MessageSizeTooLargeError)
        if is_by_the_client:
            bench.topic.refuse = lambda sent: limit([sent])
        else:
            bench.topic.answer = limit
        large = b'{"request_id": "r-2", "filler": "' + b"x" * 100_000 + b'"}'
        await bench.publish(OBJECT, large, OBJECT)
        assert bench.accepted_offsets == [0, 1, 2]
        before, cut, after = bench.topic.accepted
        assert before.original == after.original == json.loads(OBJECT)
        assert cut.key == b"r-2"
        assert cut.original["truncated"] is True
        assert cut.original["size_bytes"] == len(large)
        first = base64.b64decode(cut.original["base64"])
        assert first
        assert large.startswith(first)


@pytest.mark.usefixtures("quick_retries")
async def test_huge_request_id__does_not_block_its_partition_for_ever() -> None:
    """A gzip batch of some kB may hold it, so it comes in; the error record is not compressed."""
    async with running() as bench:
        bench.topic.refuse = lambda sent: too_large(1_000_000, MessageSizeTooLargeError)([sent])
        await bench.publish(json.dumps({"request_id": "x" * 1_200_000}).encode())
        assert len(bench.topic.accepted) == 1


@pytest.mark.usefixtures("quick_retries")
async def test_topic_that_takes_nothing__is_told_from_one_that_takes_less() -> None:
    async with running() as bench:
        bench.topic.answer = too_large(10, MessageSizeTooLargeError)
        published = bench.letters.publish([refused(OBJECT)])
        await wait_until_async(lambda: bench.letters.trouble, 10, "the trouble", interval_s=0.001)
        assert "raise its max.message.bytes" in str(bench.letters.trouble)
        bench.topic.answer = lambda _batch: None
        await asyncio.wait_for(published, 10)
        (sent,) = bench.topic.accepted
        assert sent.original == json.loads(OBJECT)


# ------------------------------------------------------------------------------------------------- what the log says


def published(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "were published" in line]


async def test_log__counts_by_kind_at_once_and_at_the_end_and_shows_nothing_of_the_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_once = "3 bad records were published to the error topic: 2 bad_timestamp, 1 not_json"
    async with running() as bench:
        await bench.publish(OBJECT, OBJECT, NOT_JSON)
        for _ in range(99):
            await bench.publish(NOT_JSON)
        assert published(caplog) == [at_once]
    assert published(caplog) == [at_once, "99 bad records were published to the error topic: 99 not_json"]


async def test_log__counts_later_ones_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_topic, "_SAY_EVERY_S", 0.01)
    async with running() as bench:
        for count in (1, 2):
            await bench.publish(*[NOT_JSON] * count)
        await wait_until_async(lambda: len(published(caplog)) == 2, 10, "the second line", interval_s=0.001)
        await wait_until_async(lambda: bench.letters._next_line is None, 10, "a while without any", interval_s=0.001)
    assert [line.split()[0] for line in published(caplog)] == ["1", "2"]


@pytest.mark.usefixtures("quick_retries")
async def test_log__says_once_that_a_topic_refuses_what_waits_and_that_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as bench:
        bench.topic.answer = not_now
        caplog.set_level(logging.INFO)
        futures = [bench.letters.publish([refused(NOT_JSON, offset)]) for offset in range(20)]
        await wait_until_async(lambda: len(bench.topic.batches) > 50, 10, "many tries", interval_s=0.001)
        (line,) = [line for line in caplog.messages if "KAFKA_ERROR_TOPIC" in line]
        assert "20 bad records wait" in line
        assert "nothing is lost" in line
        bench.topic.answer = lambda _batch: None
        await asyncio.gather(*futures)
        assert "the error topic 'iot_errors' takes bad records again, after 0 s" in caplog.messages
