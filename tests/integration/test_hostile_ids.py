"""Devices whose ids are made to break something: keys, lookups, pages, tombstones, error records and the log."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests import harness, oracle, readings
from tests.conftest import Kafka
from tests.harness import Api, RedisDatabase, TopicNames, Worker
from tests.services import RedisServer

TTL_S = 86_400
#: How a line would begin that an id forged: as the log's own, but of a time that never was.
FORGED = "2001-01-01 00:00:00,000 WARNING  forged: "
IDS = (
    *readings.ODD_DEVICE_IDS,
    *("a/b", "a:b", "a%b", "%25", "a b", "a+b", "+a", "é", "?", "#", '"', "'", "\n", "\x7f", "trailing/", "//", "\\"),
    *(";", "&=", "~", "<b>", "health", "温" * 1000),
    f"\n{FORGED}line feed",
    f"d\r{FORGED}carriage return",
    f"d\r\n{FORGED}both",
    f"d\u2028{FORGED}line separator",
    f"d\x85{FORGED}next line",
    "\x1b[2K\x1b[1A\x1b[31mforged\x1b[0m",
    "\x9b31mforged",
    "\x08\x08\x08\x7fforged",
    "\u202eforged\u202c\u2066\u200f",
    "\x00",
    "d\x00forged",
    "d\\n",
    "\"'`$(forged)",
    '","device_id":"forged',
    "%s%d%(forged)s%n",
    "{}",
    "{0}{forged!r}",
    ":",
    "a",
    "a:metadata",
    "x:metadata",
    "device:a:metadata",
    "device:*:metadata",
    "stream_cache:{devices}:ids",
    "stream_cache:{devices}:state",
    "-",
    "+",
    "(a",
    "[a",
    "-inf",
    "a/../b",
    "\ufeffa",
    "\uffff",
    "\U0010ffff",
    "x" * 10_000,
    "温" * 3_333,
)
#: Half of a surrogate pair, escaped: JSON can say it, UTF-8 can't.
HALVES = ('"\\ud800"', '"a\\udfff\\n"')
#: Beside devices and their index, there may be these.
OURS = {b"devices"} | {
    b"stream_cache:{devices}:" + name for name in (b"ids", b"seen", b"late", b"layout", b"scan_lease", b"state")
}
_CONTROL = re.compile(r"[^\n\t -\x7e\xa0-\U0010ffff]|[\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Bench(NamedTuple):
    api: Api
    topics: TopicNames
    database: RedisDatabase

    def assert_holds(self, state: oracle.State, *, others: Iterable[bytes] = ()) -> None:
        """Check every key of Redis: those of the state with the right content, the index, and no others."""
        with self.database.connect() as client:
            oracle.assert_equal_to_redis(state, client)
            keys = set(client.scan_iter(count=1000))
            assert keys - OURS == {key_of(device_id) for device_id in state.devices} | set(others)
            indexed: Any = client.zrange("stream_cache:{devices}:ids", 0, -1)
            assert indexed == sorted(device_id.encode() for device_id in state.devices)

    def listed(self, limit: int) -> list[str]:
        ids: list[str] = []
        cursor = ""
        while True:
            page = self.api.get(f"/devices?limit={limit}{cursor}").json
            ids += page["devices"]
            if page["next_cursor"] is None:
                return ids
            cursor = f"&cursor={quote(page['next_cursor'])}"

    def assert_log_is_the_workers_own(self) -> None:
        """Check that whatever reads the log, line by line or on a terminal, is not misled by what an id holds."""
        text = self.api.worker.log_path.read_bytes().decode()  # all of it is UTF-8
        assert not (found := _CONTROL.search(text)), text[found.start() - 200 : found.end() + 50]
        assert [line for line in text.split("\n") if line.startswith(FORGED)] == []
        assert "serves HTTP" in text


def key_of(device_id: str) -> bytes:
    return f"device:{device_id}:metadata".encode()


def reading_of(device_id: str, name: str = "T", *, timestamp_ms: int | None = None) -> oracle.Record:
    """Make a good record; its request id is the device's, which is as hostile."""
    made_ms = timestamp_ms or int(time.time() * 1000)
    value = {
        "request_id": device_id,
        "timestamp": oracle.time_text(made_ms * 1000),
        "device_id": device_id,
        "values": [1],
        "metadata": {"datatype_name": name, "datatype_unit": device_id},
    }
    return oracle.Record(0, 0, made_ms, device_id.encode(), json.dumps(value).encode())


def tombstone_of(device_id: str) -> oracle.Record:
    return oracle.Record(0, 0, int(time.time() * 1000), device_id.encode(), None)


@contextmanager
def started(kafka: Kafka, directory: Path, redis: RedisServer, level: str) -> Iterator[Bench]:
    topics = TopicNames.unique(kafka.bootstrap_servers)
    topics.create(1)
    database = RedisDatabase.of_url(redis.url, 0)
    with Worker(directory, topics.env() | database.env() | {"LOG_LEVEL": level}) as worker:
        worker.wait_ready()
        yield Bench(Api(worker), topics, database)
        assert worker.terminate() == 0
    harness.delete_topics(topics.bootstrap, (topics.source, topics.errors))


class Held(NamedTuple):
    bench: Bench
    state: oracle.State
    bad: list[oracle.Record]


@pytest.fixture(scope="module", params=["INFO", "DEBUG"])
def held(request: pytest.FixtureRequest, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A worker that has taken a good and a bad record of every id, and of ids that are no Unicode."""
    directory = tmp_path_factory.mktemp("hostile-ids")
    with (
        RedisServer(directory / "redis") as redis,
        started(kafka, directory / "worker", redis, request.param) as bench,
    ):
        good = bench.topics.produce([reading_of(device_id, f"name {number}") for number, device_id in enumerate(IDS)])
        bad = [with_bad_time(reading_of(device_id)) for device_id in IDS]
        bad += [with_id_text(reading_of("d"), half) for half in HALVES]
        bad = bench.topics.produce(bad)
        bench.topics.wait_caught_up()
        yield Held(bench, oracle.fold([*good, *bad], ttl_s=TTL_S), bad)


def with_bad_time(record: oracle.Record) -> oracle.Record:
    body = json.loads(record.value or b"")
    body["timestamp"] = body["device_id"][:1000]
    return oracle.Record(0, 0, record.timestamp_ms, record.key, json.dumps(body).encode())


def with_id_text(record: oracle.Record, text: str) -> oracle.Record:
    body = json.loads(record.value or b"")
    del body["device_id"]
    value = f'{json.dumps(body)[:-1]}, "device_id": {text}}}'
    return oracle.Record(0, 0, record.timestamp_ms, record.key, value.encode())


def test_each__has_a_key_of_its_own_and_no_other_key_appears(held: Held) -> None:
    assert held.state.devices == set(IDS)
    held.bench.assert_holds(held.state)


def test_each__is_found_by_the_bulk_request(held: Held) -> None:
    wanted = [oracle.public(held.state, device_id) for device_id in IDS]
    assert held.bench.api.bulk(IDS).json == {"devices": wanted, "missing": []}


def test_each__is_found_by_its_path_however_much_of_it_is_encoded(held: Held) -> None:
    for device_id in IDS:
        if device_id not in {".", ".."}:  # no path can hold those
            everything = "".join(f"%{byte:02x}" for byte in device_id.encode())
            for text in (everything, quote(device_id, safe=""), quote(device_id, safe="~'*:,;&=+!$@")):
                answer = held.bench.api.get(f"/devices/{text}/metadata")
                assert (answer.status, answer.json) == (200, oracle.public(held.state, device_id))


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_each__is_listed_exactly_once(held: Held, limit: int) -> None:
    assert sorted(held.bench.listed(limit)) == sorted(IDS)


def test_bad_record_of_such_an_id__is_told_and_says_why_in_one_line(held: Held) -> None:
    told = held.bench.topics.rejected()
    assert told.keys() == {(record.partition, record.offset) for record in held.bad}
    for record in held.bad:
        _, error = told[record.partition, record.offset]
        assert error["original_message"] == json.loads(record.value or b"")
        assert error["request_id"] == error["original_message"]["request_id"]
        assert error["error"].isprintable()


def test_log__has_no_line_that_an_id_forged(held: Held) -> None:
    """Neither of what was read, nor of what was asked for and is not there."""
    unknown = [f"{device_id}?" for device_id in IDS]
    assert held.bench.api.bulk(unknown).json["missing"] == unknown
    assert {held.bench.api.one(device_id).status for device_id in unknown} == {404}
    held.bench.assert_log_is_the_workers_own()


def test_tombstone_of_such_an_id__forgets_only_its_device(kafka: Kafka, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis, started(kafka, tmp_path, redis, "INFO") as bench:
        an_hour_ago_ms = int(time.time() * 1000) - 3_600_000
        readings_of_all = [reading_of(device_id, timestamp_ms=an_hour_ago_ms) for device_id in IDS]
        records = bench.topics.produce(readings_of_all)
        for forgotten in (IDS[::2], IDS[1::2]):
            records += bench.topics.produce([tombstone_of(device_id) for device_id in forgotten])
            bench.topics.wait_caught_up()
            state = oracle.fold(records, ttl_s=TTL_S)
            stamps = [key_of(device_id) for device_id in state.tombstones]
            bench.assert_holds(state, others=stamps)
            assert sorted(bench.listed(1000)) == sorted(state.devices)
            assert bench.api.bulk(IDS).json["missing"] == [d for d in IDS if d not in state.devices]
        assert state.devices == set()
        bench.topics.produce(readings_of_all)  # older than the tombstones
        bench.topics.wait_caught_up()
        bench.assert_holds(state, others=stamps)
