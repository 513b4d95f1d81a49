"""Error records: what they say of a bad record, and that they are sent until the broker has them (section 3)."""

import asyncio
import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError
from faust.exceptions import ProducerSendError
from hypothesis import given
from hypothesis import strategies as st

from stream_cache import dead_letters
from stream_cache.dead_letters import DeadLetters
from stream_cache.errors import BadRecord
from stream_cache.metrics import Metrics
from stream_cache.models import SourceRecord
from tests import readings, strategies
from tests.fakes import NOW_MS, FakeRecord, decode_all
from tests.waiting import wait_until_async

Headers = list[tuple[str, bytes]]
OBJECT = b'{"request_id": "r-1", "timestamp": "yesterday", "device_id": "d", "values": [1]}'


class Sent(NamedTuple):
    key: bytes | None
    value: bytes
    headers: Headers

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.value)
        return told


Answer = Callable[[Sent], Exception | None]


class FakeTopic:
    """The error topic; `answer` says what becomes of a record, None is success."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.accepted: list[Sent] = []
        self.answer: Answer = lambda _sent: None
        #: Whether the refusal comes with the broker's answer, and not from the client at once.
        self.refuses_late = True

    async def send(self, key: bytes | None, value: bytes, headers: Headers) -> Awaitable[Any]:
        sent = Sent(key, value, headers)
        self.sent.append(sent)
        error = self.answer(sent)
        if error and not self.refuses_late:
            raise error
        broker_has_it: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if error:
            broker_has_it.set_exception(error)
        else:
            self.accepted.append(sent)
            broker_has_it.set_result(None)
        return broker_has_it


def refusal(text: str) -> Exception:
    error: Exception = NotLeaderForPartitionError(text)
    return error


def dead_letters_to(topic: FakeTopic, original_max_bytes: int = 262_144, metrics: Metrics | None = None) -> DeadLetters:
    return DeadLetters(topic.send, "iot_validated_data", original_max_bytes, metrics or Metrics())


def refused(value: bytes | None, key: bytes | None = b"d", *, offset: int = 7) -> tuple[SourceRecord, BadRecord]:
    """Decode a bad record."""
    ((record, bad),) = decode_all([FakeRecord(2, offset, NOW_MS, key, value)]).bad
    return record, bad


async def told_of(item: tuple[SourceRecord, BadRecord], original_max_bytes: int = 262_144) -> Sent:
    topic = FakeTopic()
    await dead_letters_to(topic, original_max_bytes).tell([item])
    (sent,) = topic.accepted
    return sent


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_RETRY_S", 0.001)


# -------------------------------------------------------------------------------------------------- what it says


async def test_error_record__has_the_contracts_fields_key_and_headers() -> None:
    sent = await told_of(refused(OBJECT))
    told = sent.told
    assert list(told) == ["request_id", "timestamp", "service", "error", "original_message"]
    assert told["request_id"] == "r-1"
    assert told["service"] == "cache_service"
    assert "timestamp: 'yesterday'" in told["error"]
    assert told["original_message"] == json.loads(OBJECT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["timestamp"])
    assert sent.key == b"r-1"
    assert sent.headers == [
        ("source.topic", b"iot_validated_data"),
        ("source.partition", b"2"),
        ("source.offset", b"7"),
        ("source.timestamp", str(NOW_MS).encode()),
        ("error.type", b"bad_timestamp"),
    ]


@pytest.mark.parametrize("value", [b"", b"temperature=21.4", b"\xff\xfe", b"[]", b"null", b'"x"', b"7", OBJECT[:-1]])
async def test_original__that_is_no_object_is_base64(value: bytes) -> None:
    sent = await told_of(refused(value))
    assert sent.told["original_message"] == {"base64": base64.b64encode(value).decode()}
    assert sent.told["request_id"] is None
    assert sent.key is None


@pytest.mark.parametrize("key", readings.BAD_TOMBSTONE_KEYS)
async def test_tombstone__without_a_readable_key_is_told(key: bytes | None) -> None:
    sent = await told_of(refused(None, key))
    assert sent.told["original_message"] == {"base64": ""}
    assert (sent.told["request_id"], sent.key) == (None, None)


@pytest.mark.parametrize("request_id", ["null", "7", "[1]", None], ids=str)
async def test_request_id__that_is_no_string_is_null(request_id: str | None) -> None:
    name = "" if request_id is None else f'"request_id":{request_id},'
    sent = await told_of(refused(f'{{{name}"timestamp":"x","device_id":"d","values":[]}}'.encode()))
    assert (sent.told["request_id"], sent.key) == (None, None)


async def test_request_id__with_half_a_surrogate_is_told_all_the_same() -> None:
    value = b'{"request_id": "a\\ud800b", "timestamp": "x", "device_id": "d", "values": []}'
    sent = await told_of(refused(value))
    assert sent.told["request_id"] == "a\ud800b"
    assert sent.key is not None
    assert sent.key.decode()  # UTF-8, whatever stands for the half
    assert sent.told["original_message"] == json.loads(value)


async def test_request_id__may_be_empty_or_any_text() -> None:
    for request_id in ("", "é/\x00 🌡"):
        body: dict[str, Any] = {"request_id": request_id, "timestamp": "x", "device_id": "d", "values": []}
        sent = await told_of(refused(json.dumps(body).encode()))
        assert (sent.told["request_id"], sent.key) == (request_id, request_id.encode())


@pytest.mark.parametrize(("size", "is_whole"), [(100, True), (101, False), (5000, False)])
async def test_original__beyond_the_limit_is_its_first_bytes(size: int, *, is_whole: bool) -> None:
    value = OBJECT + b" " * (size - len(OBJECT))
    original = (await told_of(refused(value), 100)).told["original_message"]
    if is_whole:
        assert original == json.loads(OBJECT)
    else:
        first = base64.b64encode(value[:100]).decode()
        assert original == {"base64": first, "truncated": True, "size_bytes": size}


async def test_original__with_a_limit_of_0_is_its_size() -> None:
    sent = await told_of(refused(OBJECT), 0)
    assert sent.told["original_message"] == {"base64": "", "truncated": True, "size_bytes": len(OBJECT)}


@given(
    strategies.bad_values() | st.binary(max_size=50).map(lambda some: b"\xff" + some), st.sampled_from([0, 40, 262_144])
)
def test_any_bad_record__makes_valid_json(value: bytes, original_max_bytes: int) -> None:
    told = asyncio.run(told_of(refused(value), original_max_bytes)).told
    original = told["original_message"]
    if len(value) > original_max_bytes:
        assert original["truncated"] is True
        assert base64.b64decode(original["base64"]) == value[:original_max_bytes]
    elif set(original) == {"base64"}:
        assert base64.b64decode(original["base64"]) == value
    else:
        assert json.dumps(original) == json.dumps(json.loads(value))


async def test_tombstone__that_redis_refuses_makes_valid_json() -> None:
    """One whose key is fine, but whose Redis key holds something that is no hash."""
    sent = await told_of((FakeRecord(value=None, key=b"d"), BadRecord("wrong_redis_type", "device_id: no hash")))
    assert sent.told["original_message"] == {"base64": ""}


# ---------------------------------------------------------------------------------------------- until it is told


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("refuses_late", [True, False])
async def test_refusing_topic__is_tried_until_it_takes_them(
    caplog: pytest.LogCaptureFixture, *, refuses_late: bool
) -> None:
    topic, metrics = FakeTopic(), Metrics()
    topic.refuses_late = refuses_late
    letters = dead_letters_to(topic, metrics=metrics)
    topic.answer = lambda _sent: refusal("not now")
    told = letters.tell([refused(OBJECT, offset=offset) for offset in range(3)])
    assert letters.trouble is None
    with caplog.at_level(logging.WARNING):
        await wait_until_async(lambda: len(topic.sent) > 9, 10, "some tries", interval_s=0.001)
    assert not told.done()
    assert letters.is_telling
    assert letters.trouble is not None
    assert "NotLeaderForPartitionError" in letters.trouble
    assert "3 bad records could not be told" in caplog.text
    topic.answer = lambda _sent: None
    await asyncio.wait_for(told, 10)
    assert letters.trouble is None
    assert not letters.is_telling
    assert sorted(dict(sent.headers)["source.offset"] for sent in topic.accepted) == [b"0", b"1", b"2"]
    assert metrics.registry.get_sample_value("stream_cache_errors_total", {"kind": "error_topic"})


async def test_trouble__is_said_at_the_first_record_that_fails() -> None:
    """Of a topic that is missing each record waits long for news, one after the other."""
    topic, metrics = FakeTopic(), Metrics()
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def send(key: bytes | None, value: bytes, headers: Headers) -> Awaitable[Any]:
        if dict(headers)["source.offset"] == b"0":
            raise refusal("no such topic")
        is_asked.set()
        await may_answer.wait()
        return await topic.send(key, value, headers)

    letters = DeadLetters(send, "iot_validated_data", 262_144, metrics)
    told = letters.tell([refused(OBJECT, offset=offset) for offset in range(3)])
    await asyncio.wait_for(is_asked.wait(), 10)
    assert letters.trouble is not None
    assert "no such topic" in letters.trouble
    assert metrics.registry.get_sample_value("stream_cache_errors_total", {"kind": "error_topic"}) == 1
    may_answer.set()
    told.cancel()


@pytest.mark.usefixtures("quick_retries")
async def test_one_refused_record__does_not_send_the_others_twice() -> None:
    topic = FakeTopic()
    refusals_left = 4

    def answer(sent: Sent) -> Exception | None:
        nonlocal refusals_left
        if dict(sent.headers)["source.offset"] == b"1" and refusals_left:
            refusals_left -= 1
            return refusal("not now")
        return None

    topic.answer = answer
    await dead_letters_to(topic).tell([refused(OBJECT, offset=offset) for offset in range(3)])
    assert sorted(dict(sent.headers)["source.offset"] for sent in topic.accepted) == [b"0", b"1", b"2"]


def size_limit(max_bytes: int, *, is_wrapped: bool) -> Answer:
    def answer(sent: Sent) -> Exception | None:
        if len(sent.value) + len(sent.key or b"") <= max_bytes:
            return None
        error: Exception = MessageSizeTooLargeError("too large")
        if not is_wrapped:
            return error
        wrapped = ProducerSendError("Error while sending")
        wrapped.__cause__ = error
        return wrapped

    return answer


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("is_wrapped", [True, False])
async def test_record_too_large_for_the_broker__is_told_truncated(*, is_wrapped: bool) -> None:
    """The topic may take less than ERROR_ORIGINAL_MAX_BYTES: better told in part than never."""
    topic = FakeTopic()
    topic.refuses_late = not is_wrapped
    topic.answer = size_limit(20_000, is_wrapped=is_wrapped)
    value = b'{"request_id": "r-1", "filler": "' + b"x" * 100_000 + b'"}'
    await asyncio.wait_for(dead_letters_to(topic).tell([refused(value)]), 10)
    (sent,) = topic.accepted
    original = sent.told["original_message"]
    assert original["truncated"] is True
    assert original["size_bytes"] == len(value)
    assert value.startswith(base64.b64decode(original["base64"]))


@pytest.mark.usefixtures("quick_retries")
async def test_huge_request_id__does_not_block_its_partition_for_ever() -> None:
    """A gzip batch of some kB may hold it, so it comes in; the error record is not compressed."""
    topic = FakeTopic()
    topic.answer = size_limit(1_000_000, is_wrapped=True)
    value = json.dumps({"request_id": "x" * 1_200_000, "timestamp": "x", "device_id": "d", "values": []}).encode()
    await asyncio.wait_for(dead_letters_to(topic).tell([refused(value)]), 3)
    assert topic.accepted


async def test_tell__of_many_chunks_at_once_tells_all() -> None:
    topic = FakeTopic()
    letters = dead_letters_to(topic)
    await asyncio.gather(*(letters.tell([refused(OBJECT, offset=offset)]) for offset in range(50)))
    assert len(topic.accepted) == 50


# ------------------------------------------------------------------------------------------------- what the log says


NOT_JSON = b"{"


async def test_log__counts_what_was_told_and_shows_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    letters = dead_letters_to(FakeTopic())
    await letters.tell([refused(OBJECT), refused(OBJECT), refused(NOT_JSON)])
    (line,) = caplog.messages
    assert line == "3 bad records were told to the error topic: 2 bad_timestamp, 1 not_json"
    letters.close()
    assert caplog.messages == [line]


async def test_log__has_one_line_at_once_and_one_at_the_end_however_many_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    letters = dead_letters_to(FakeTopic())
    for _ in range(100):
        await letters.tell([refused(NOT_JSON)])
    assert len(caplog.messages) == 1
    letters.close()
    assert [line.split(" ")[0] for line in caplog.messages] == ["1", "99"]


async def test_log__tells_of_later_ones_after_a_while_and_is_silent_when_there_are_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_SAY_EVERY_S", 0.01)
    letters = dead_letters_to(FakeTopic())
    for count in (1, 2):
        await letters.tell([refused(NOT_JSON)] * count)
    await wait_until_async(lambda: len(caplog.messages) == 2, 10, "the second line", interval_s=0.001)
    await wait_until_async(lambda: letters._next_line is None, 10, "a while without bad records", interval_s=0.001)
    assert [line.split(" ")[0] for line in caplog.messages] == ["1", "2"]


@pytest.mark.usefixtures("quick_retries")
async def test_log__says_once_in_a_while_that_a_topic_refuses_however_often_it_is_tried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk tries again by itself: a line for each would drown the log."""
    topic = FakeTopic()
    topic.answer = lambda _sent: refusal("not now")
    letters = dead_letters_to(topic)
    telling = [letters.tell([refused(NOT_JSON, offset=offset)]) for offset in range(20)]
    await wait_until_async(lambda: len(topic.sent) > 500, 10, "many tries", interval_s=0.001)
    assert len(caplog.messages) == 1
    monkeypatch.setattr(dead_letters, "_WARN_EVERY_S", 0.0)
    await wait_until_async(lambda: len(caplog.messages) > 1, 10, "the next line", interval_s=0.001)
    assert caplog.messages[1].startswith("20 bad records could not be told")
    topic.answer = lambda _sent: None
    await asyncio.gather(*telling)
    letters.close()
    assert sum(int(line.split(" ")[0]) for line in caplog.messages if "were told" in line) == 20
