"""What the store promises (the contract, section 2), on most kinds of Redis; tests/faults has the others."""

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_cache.errors import AnswerTooLarge, StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.store.pruner import Pruner
from tests import oracle, readings, strategies
from tests.services.redis_kinds import RedisKind, execute
from tests.store_bench import BASE_MS, DAY_MS, TTL_S, Bench, record_of, tombstone_of
from tests.waiting import wait_until, wait_until_async

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(kind: RedisKind) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(ttl_s: int = TTL_S, **environ: str) -> Bench:
        benches.append(Bench(kind, ttl_s, **environ))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


# ---------------------------------------------------------------------------------------------------- one order

_DEVICES = ("d", "buoy-é {x}", "a/b:c%")


@st.composite
def events_of_some_devices(draw: st.DrawFn) -> list[oracle.Record]:
    """Readings and tombstones of few event times, so that ties are common; unique places."""
    records = []
    for partition, offset in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=1, max_size=12, unique=True)
    ):
        device_id = draw(st.sampled_from(_DEVICES))
        timestamp_ms = BASE_MS + 1000 * draw(st.integers(0, 3))
        place = {"offset": offset, "partition": partition, "timestamp_ms": timestamp_ms}
        if draw(st.integers(0, 3)) == 0:
            records.append(tombstone_of(device_id, **place))
            continue
        event_us = (BASE_MS + 1000 * draw(st.integers(0, 3))) * 1000 + draw(st.sampled_from([0, 0, 1]))
        metadata = readings.utf8(json.dumps(draw(strategies.metadata()), ensure_ascii=draw(st.booleans()))).decode()
        records.append(record_of(device_id, **place, event_time=oracle.time_text(event_us), metadata=metadata))
    return records


@pytest.mark.parametrize("ttl_s", [TTL_S, 0])
def test_any_order_duplicates_replays_and_windows__end_in_the_oracles_state(make_bench: MakeBench, ttl_s: int) -> None:
    """Hashes and their deadlines, `devices`, ids and last seen: the same, down to the bookkeeping."""
    bench = make_bench(ttl_s, OFFLINE_AFTER_S="0.001")  # whoever forgets what he indexed keeps one store for all

    @given(events_of_some_devices(), st.data())
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def check(records: list[oracle.Record], data: st.DataObject) -> None:
        state = oracle.fold(records, ttl_s=ttl_s)
        bench.empty()
        again = data.draw(st.lists(st.sampled_from(records), max_size=6))
        arriving = data.draw(st.permutations(records + again))
        while arriving:
            count = data.draw(st.integers(1, len(arriving)))
            bench.put(arriving[:count])
            arriving = arriving[count:]
        bench.put(data.draw(st.permutations(records)))  # a replay of all

        bench.assert_holds(state)
        assert bench.get_many(_DEVICES) == [oracle.public(state, device_id) for device_id in _DEVICES]
        for device_id in set(_DEVICES) - state.devices:
            held = bench.hash_of(device_id)
            assert held == {} or held.keys() == {"_gone", "_at"}

    check()


def test_all_permutations_of_a_devices_events__end_in_the_same_hash(bench: Bench) -> None:
    """Two readings of one moment, a tombstone between, a late one: 24 orders, each with a reader between the steps."""
    events = [
        record_of("d", offset=1, timestamp_ms=BASE_MS),
        record_of("d", offset=2, timestamp_ms=BASE_MS),
        tombstone_of("d", offset=3, timestamp_ms=BASE_MS + 1),
        record_of("d", offset=4, timestamp_ms=BASE_MS + 9, event_time=oracle.time_text((BASE_MS + 2) * 1000)),
    ]
    for order in itertools.permutations(events):
        bench.empty()
        seen: list[str] = []
        for event in order:
            bench.put([event])
            if held := bench.get("d"):
                seen.append(held["last_updated"])
        assert seen == sorted(seen)
        bench.assert_holds(oracle.fold(events, ttl_s=TTL_S))


def test_generated_records__end_in_the_oracles_state(bench: Bench) -> None:
    records = list(readings.with_offsets(readings.generate(5, 5_000, 700, base_ms=BASE_MS - 3_600_000)))
    good = [record for record in records if not isinstance(oracle.judge(record), oracle.Bad)]
    for start in range(0, len(good), 1_700):
        bench.put(
            [r for r in good[start : start + 1_700] if (v := oracle.judge(r)) and getattr(v, "metadata", 1) is not None]
        )
    state = oracle.fold(records, ttl_s=TTL_S)
    bench.assert_holds(state)
    assert bench.all_ids() == sorted(state.devices, key=str.encode)


def test_put__counts_what_it_did(bench: Bench) -> None:
    old = record_of("old", offset=1, timestamp_ms=BASE_MS - 2 * DAY_MS)
    assert bench.put([record_of("a", offset=2), old, tombstone_of("b", offset=3)])[:3] == (2, 0, 1)
    assert bench.put([record_of("a", offset=1), tombstone_of("b", offset=2)])[:3] == (0, 2, 0)


def test_equal_event_times__go_by_offset_and_then_by_partition(bench: Bench) -> None:
    def put(name: str, offset: int, partition: int) -> str:
        bench.put([record_of("d", offset=offset, partition=partition, metadata=json.dumps({"datatype_name": name}))])
        return bench.hash_of("d")["datatype_name"]

    assert put("first", 9, 1) == "first"
    assert put("smaller offset", 8, 5) == "first"
    assert put("smaller partition", 9, 0) == "first"
    assert put("greater partition", 9, 2) == "greater partition"
    assert put("greater offset, as a number", 10, 0) == "greater offset, as a number"
    assert put("beyond 2**53", 2**53 + 2, 0) == "beyond 2**53"


# ----------------------------------------------------------------------------------------------------- the hash


@pytest.mark.parametrize("value", [*readings.STRINGS_LIKE_JSON, "°C", "a\x00b", "x" * 100_000])
def test_text__comes_back_as_text(bench: Bench, value: str) -> None:
    metadata = dict.fromkeys(oracle.KEPT_OF_METADATA, value)
    bench.put([record_of("d", offset=1, metadata=json.dumps(metadata))])
    assert bench.hash_of("d")["persist"] == value
    found = bench.get("d")
    assert found is not None
    assert {name: found[name] for name in oracle.KEPT_OF_METADATA} == metadata


@pytest.mark.parametrize("value", readings._OVERRIDES, ids=str)
def test_json_value__comes_back_as_it_is(bench: Bench, value: Any) -> None:
    metadata = dict.fromkeys(oracle.KEPT_OF_METADATA, value)
    bench.put([record_of("d", offset=1, metadata=json.dumps(metadata, ensure_ascii=False))])
    found = bench.get("d")
    assert found is not None
    assert json.dumps([found[name] for name in oracle.KEPT_OF_METADATA]) == json.dumps([value] * 4)


@pytest.mark.parametrize(
    "text",
    [
        *("1.10", "1E400", "0.12345678901234567890123", '["m","s"]', '{"a": 1.10 }'),
        *('["m", "\\udfff"]', '{"a": "\\ud800x"}', '["\\ud800", 1e999]', '{"\\ud800": [1e999, null]}'),
    ],
)
def test_json_text__is_kept_and_read_as_it_came(bench: Bench, text: str) -> None:
    """Digits, white space and half of a surrogate pair included, which JSON can say, escaped, and UTF-8 can't."""
    metadata = ", ".join(f'"{name}": {text}' for name in oracle.KEPT_OF_METADATA).join("{}")
    bench.put([record_of("d", offset=1, metadata=metadata)])
    assert [bench.hash_of("d")[name] for name in oracle.KEPT_OF_METADATA] == [text] * 4
    found = bench.run(bench.store.get("d"))
    assert found is not None
    assert [bytes(cast("msgspec.Raw", value)).decode() for value in found.fields.values()] == [text] * 4


def test_kind_of_a_field__may_change_from_reading_to_reading(bench: Bench) -> None:
    """A null field disappears, and comes back."""
    for offset, value in enumerate(["[1]", [1], None, "true", True, None, "x"]):
        bench.put([record_of("d", offset=offset, metadata=json.dumps(dict.fromkeys(oracle.KEPT_OF_METADATA, value)))])
        found = bench.get("d")
        assert found is not None
        assert found["datatype_unit"] == value
        assert found["persist"] == (True if value is None else value)
        assert ("datatype_id" in bench.hash_of("d")) == (value is not None)


@pytest.mark.parametrize("device_id", readings.ODD_DEVICE_IDS)
def test_odd_device_id__is_kept_found_listed_and_forgotten(bench: Bench, device_id: str) -> None:
    bench.put([record_of(device_id, offset=1)])
    found = bench.get(device_id)
    assert found is not None
    assert found["device_id"] == device_id
    assert bench.all_ids() == [device_id]
    bench.put([tombstone_of(device_id, offset=2)])
    assert bench.get(device_id) is None
    assert bench.all_ids() == []


def test_key_of_another_type__is_refused_alone_and_with_its_request_id(bench: Bench) -> None:
    """In one line, whatever its id holds."""
    names = [f"d{number}" for number in range(250)]
    names[100] = "d100\r\n\x1b[2K\u2028forged"
    key = f"device:{names[100]}:metadata"
    bench.at(key).lpush(key, "a list")
    for make, first in ((record_of, 1000), (tombstone_of, 2000)):
        result = bench.put([make(name, offset=first + number) for number, name in enumerate(names)])
        ((refused, bad),) = result.refused
        assert (refused.device_id, refused.record.offset) == (names[100], first + 100)
        assert bad.kind == "wrong_redis_type"
        assert repr(key) in bad.reason
        assert bad.reason.isprintable()
        assert bad.request_id == ("r-0-1100" if make is record_of else None)
        assert result.written_count == 249
        assert (bench.get("d99") is None) == (make is tombstone_of)
    assert bench.at(key).lrange(key, 0, -1) == [b"a list"]
    assert bench.get(names[100]) is None


# ------------------------------------------------------------------------------------------------------ lookups


def test_get_many__answers_in_the_order_asked_with_duplicates(bench: Bench) -> None:
    bench.put([record_of("a", offset=1), record_of("b", offset=2)])
    found = bench.get_many(["b", "x", "a", "b"])
    assert [device and device["device_id"] for device in found] == ["b", None, "a", "b"]


def test_lookups_that_come_together__get_each_their_own(bench: Bench) -> None:
    names = [f"d{number}" for number in range(300)]
    bench.put([record_of(name, offset=1, metadata=json.dumps({"datatype_name": name})) for name in names])

    async def look_all_up() -> list[Any]:
        return await asyncio.gather(*(bench.store.get(name) for name in [*names, "none"]))

    *found, none = bench.run(look_all_up())
    assert [device.fields["datatype_name"] for device in found] == names
    assert none is None


def test_get_many__refuses_an_answer_that_is_too_large_and_single_lookups_share_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cache.store.lookups.MAX_ANSWER_BYTES", 1000)
    names = [f"d{number}" for number in range(8)]
    bench.put([record_of(name, offset=1, metadata=json.dumps({"datatype_name": 300 * "x"})) for name in names])
    with pytest.raises(AnswerTooLarge):
        bench.get_many(names)

    async def look_all_up() -> list[Any]:
        return await asyncio.gather(*(bench.store.get(name) for name in names))

    assert [device.device_id for device in bench.run(look_all_up())] == names


# ---------------------------------------------------------------------------------------------------------- TTL


def test_ttl__counts_from_the_winners_kafka_timestamp(bench: Bench) -> None:
    early, late = BASE_MS - 3_600_000, BASE_MS
    bench.put([record_of("d", offset=1, timestamp_ms=early, event_time=oracle.time_text(late * 1000))])
    assert bench.deadline_ms("d") == pytest.approx(early + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=2, timestamp_ms=late, event_time=oracle.time_text(early * 1000))])
    assert bench.deadline_ms("d") == pytest.approx(early + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=3, timestamp_ms=late)])
    assert bench.deadline_ms("d") == pytest.approx(late + TTL_S * 1000, abs=50)


def test_ttl__of_a_record_without_a_kafka_timestamp_counts_from_its_event_time(bench: Bench) -> None:
    bench.put([record_of("d", offset=1, timestamp_ms=-1, event_time=oracle.time_text(BASE_MS * 1000))])
    assert bench.deadline_ms("d") == pytest.approx(BASE_MS + TTL_S * 1000, abs=50)
    assert bench.zset("seen") == {"d": BASE_MS}


def test_ttl__0_is_for_ever_and_a_change_of_it_takes_effect(bench: Bench) -> None:
    for_ever = bench.store_with(0)
    bench.put([record_of("d", offset=1, timestamp_ms=BASE_MS - 9000 * DAY_MS)], for_ever)
    assert bench.deadline_ms("d") is None
    bench.put([record_of("d", offset=2)])
    assert bench.deadline_ms("d") == pytest.approx(BASE_MS + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=3)], for_ever)
    assert bench.deadline_ms("d") is None


def test_event_older_than_the_ttl__is_not_written(bench: Bench) -> None:
    now_ms = int(time.time() * 1000)
    too_old, young = now_ms - TTL_S * 1000 - 1000, now_ms - TTL_S * 1000 + 30_000
    bench.put([record_of("old", offset=1, timestamp_ms=too_old), record_of("young", offset=2, timestamp_ms=young)])
    bench.put(
        [tombstone_of("young", offset=1, timestamp_ms=too_old), tombstone_of("x", offset=3, timestamp_ms=too_old)]
    )
    assert bench.all_ids() == ["young"]
    assert bench.hash_of("x") == {}


@pytest.mark.parametrize("timestamp_ms", [-2, 0, -(2**63), 2**63 - 1, 2**53, 253_402_300_800_000])
@pytest.mark.parametrize("ttl_s", [0, TTL_S])
def test_any_kafka_timestamp__is_survived(make_bench: MakeBench, ttl_s: int, timestamp_ms: int) -> None:
    """A producer may send any 64-bit number; a neighbour of the same window must not suffer."""
    bench = make_bench(ttl_s)
    odd = record_of("odd", offset=1, event_time="1970-01-08T00:00:00Z")
    for _ in range(2):  # again: their stamps are read, too
        bench.put(
            [
                dataclasses.replace(odd, timestamp_ms=max(timestamp_ms, 0)),  # an earlier one makes a reading bad
                tombstone_of("odd tombstone", offset=2, timestamp_ms=timestamp_ms),
                record_of("neighbour", offset=3),
            ]
        )
    assert "neighbour" in bench.all_ids()


# --------------------------------------------------------------------------------------------------- tombstones


def test_tombstone__forgets_the_device_at_once_and_keeps_older_readings_out(bench: Bench) -> None:
    bench.put([record_of("d", offset=1)])
    bench.put([tombstone_of("d", offset=2)])
    assert bench.get("d") is None
    assert bench.members() == set()
    assert bench.all_ids() == []
    assert bench.hash_of("d").keys() == {"_gone", "_at"}
    assert bench.deadline_ms("d") == pytest.approx(BASE_MS + TTL_S * 1000, abs=50)
    bench.put([record_of("d", offset=1)])
    assert bench.get("d") is None
    assert bench.zset("seen") == {}
    bench.put([record_of("d", offset=3)])
    assert bench.get("d") is not None
    assert "_gone" not in bench.hash_of("d")
    assert bench.all_ids() == ["d"]


def test_tombstone_that_lost__leaves_nothing(bench: Bench) -> None:
    bench.put([record_of("d", offset=5)])
    before = bench.contents()
    bench.put([tombstone_of("d", offset=4)])
    assert bench.contents() == before


def test_tombstone_of_any_age__wins_without_a_ttl_and_is_kept_for_a_day(make_bench: MakeBench) -> None:
    bench = make_bench(0)
    old_ms = int(time.time() * 1000) - 9 * DAY_MS
    late = record_of("d", offset=3, timestamp_ms=old_ms + 2, event_time=oracle.time_text((old_ms - 5) * 1000))
    records = [
        record_of("d", offset=1, timestamp_ms=old_ms),
        tombstone_of("d", offset=2, timestamp_ms=old_ms + 1),
        late,
        record_of("e", offset=4, timestamp_ms=old_ms),
    ]
    for window_ends in [(4,), (1, 4), (2, 4), (1, 2, 3, 4)]:
        bench.empty()
        begin = 0
        for end in window_ends:
            bench.put(records[begin:end])
            begin = end
        bench.assert_holds(oracle.fold(records, ttl_s=0))
        assert bench.deadline_ms("d") == pytest.approx(int(time.time() * 1000) + DAY_MS, abs=5000)
    bench.put([record_of("d", offset=9)])
    assert bench.deadline_ms("d") is None


def test_tombstone_that_comes_again__takes_the_id_out_again(bench: Bench) -> None:
    """A worker that died between hash and index leaves it to the replay."""
    bench.put([tombstone_of("d", offset=2)])
    bench.at("devices").sadd("devices", "d")
    bench.put([tombstone_of("d", offset=2)])
    assert bench.members() == set()


# --------------------------------------------------------------------------------------------------- last seen


def test_last_seen__is_the_largest_kafka_timestamp_of_winners_and_losers(bench: Bench) -> None:
    def put(offset: int, timestamp_ms: int, event_ms: int) -> float:
        event_time = oracle.time_text(event_ms * 1000)
        bench.put(
            [record_of("d", offset=offset, timestamp_ms=timestamp_ms, event_time=event_time)], bench.store_with(TTL_S)
        )
        return bench.zset("seen")["d"]

    assert put(1, BASE_MS, BASE_MS) == BASE_MS
    assert put(2, BASE_MS + 5000, BASE_MS - 60_000) == BASE_MS + 5000  # late, and lost
    assert put(3, BASE_MS + 1000, BASE_MS + 500) == BASE_MS + 5000  # won, and came before
    bench.put(
        [
            record_of("e", offset=4, timestamp_ms=BASE_MS),
            record_of("e", offset=5, timestamp_ms=BASE_MS + 7, event_time=oracle.time_text((BASE_MS - 9) * 1000)),
        ]
    )
    assert bench.zset("seen")["e"] == BASE_MS + 7  # of one window


def test_updated_device__is_not_indexed_again_for_a_while(bench: Bench) -> None:
    bench.put([record_of("d", offset=1)])
    bench.put([record_of("d", offset=2, timestamp_ms=BASE_MS + 1)])
    assert bench.zset("seen") == {"d": BASE_MS}
    eager = bench.store_with(TTL_S, OFFLINE_AFTER_S="0.001")
    bench.put([record_of("d", offset=3, timestamp_ms=BASE_MS + 2)], eager)
    assert bench.zset("seen") == {"d": BASE_MS + 2}


@pytest.mark.parametrize("by_hand", ["devices", "ids"])
def test_replayed_reading__is_indexed_though_it_is_held_already(bench: Bench, by_hand: str) -> None:
    """A worker that died between hash and index leaves it to the replay, which may come merged with a newer one."""
    for newer in (0, 1):
        bench.empty()
        bench.put([record_of("d", offset=1)], bench.store_with(TTL_S))
        key = "devices" if by_hand == "devices" else "stream_cache:{devices}:ids"
        bench.at(key).delete(key)
        bench.put([record_of("d", offset=1 + newer)], bench.store_with(TTL_S))
        assert bench.members() == {"d"}
        assert bench.all_ids() == ["d"]


@pytest.mark.parametrize("left_by", ["an earlier service", "somebody's DEL"])
def test_hash_that_no_key_of_the_index_names__is_listed_with_its_next_reading(bench: Bench, left_by: str) -> None:
    if left_by == "an earlier service":
        bench.set_by_hand("d", {"datatype_name": "T", "last_updated": "1795340000"})
    else:
        bench.put([record_of("d", offset=1)])
        bench.at("devices").delete("devices", "stream_cache:{devices}:ids", "stream_cache:{devices}:seen")
    assert (bench.scan(), bench.all_ids()) == (0, [])
    bench.put([record_of("d", offset=2)], bench.store_with(TTL_S))  # of a worker that has not just indexed it
    assert bench.all_ids() == ["d"]
    assert bench.members() == bench.zset("ids").keys() == bench.zset("seen").keys() == {"d"}


# -------------------------------------------------------------------------------------------- pruning and healing


def test_expired_device__leaves_the_index_when_it_is_due(make_bench: MakeBench) -> None:
    bench = make_bench(3600)
    now_ms = int(time.time() * 1000)
    soon_ms = now_ms - 3_600_000 + 4_000
    bench.put([record_of(f"soon{n}", offset=n, timestamp_ms=soon_ms) for n in range(600)])
    bench.put([record_of(f"stays{n}", offset=n) for n in range(30)])
    # Its winner expires soon; a late reading, far younger, was seen since and lost.
    bench.put([record_of("late", offset=1, timestamp_ms=soon_ms)])
    bench.put([record_of("late", offset=2, event_time=oracle.time_text((soon_ms - 9) * 1000))])
    assert bench.run(bench.store.pruning.prune_due()) == 0
    wait_until(lambda: not bench.hash_of("late") and not bench.hash_of("soon599"), 10, "the expiry")
    assert bench.run(bench.store.pruning.prune_due()) == 601
    stays = {f"stays{n}" for n in range(30)}
    assert bench.members() == bench.zset("ids").keys() == bench.zset("seen").keys() == stays
    assert bench.zset("late") == {}


def test_device_whose_ttl_was_longer__leaves_when_its_own_deadline_has_come(make_bench: MakeBench) -> None:
    bench = make_bench(3600)
    longer = bench.store_with(7200)
    old_ms = int(time.time() * 1000) - 7_200_000 + 4_000
    bench.put([record_of("d", offset=1, timestamp_ms=old_ms)], longer)
    assert bench.run(bench.store.pruning.prune_due()) == 0
    assert bench.members() == {"d"}
    wait_until(lambda: not bench.hash_of("d"), 10, "the expiry")
    wait_until(lambda: bench.run(bench.store.pruning.prune_due()) == 1, 5, "the id to be taken out")


def test_scan__puts_right_whatever_somebody_did_by_hand(bench: Bench) -> None:
    everybody = {f"d{n}" for n in range(1100)}
    bench.put([record_of(device_id, offset=1) for device_id in sorted(everybody)])
    assert bench.scan() == 0
    ids, seen = "stream_cache:{devices}:ids", "stream_cache:{devices}:seen"
    bench.at("devices").srem("devices", "d1", "d2")
    bench.at(ids).zrem(ids, "d3", "d1000")
    bench.at(seen).zrem(seen, "d5")
    bench.forget("d7", "d8")
    bench.at("devices").sadd("devices", "never was", b"\xff")
    bench.at(ids).zadd(ids, {"never was either": 0})
    bench.at(seen).zadd(seen, {"nor this": 5})
    assert bench.scan() == 5 + 5 + 1
    expected = everybody - {"d7", "d8"}
    assert bench.members() == bench.zset("ids").keys() == bench.zset("seen").keys() == expected
    assert bench.zset("seen")["d5"] == BASE_MS
    assert bench.scan() == 0


@pytest.mark.parametrize("lost", ["devices", "stream_cache:{devices}:ids", "stream_cache:{devices}:seen"])
def test_scan__brings_back_a_key_that_was_lost(bench: Bench, lost: str) -> None:
    bench.put([record_of(f"d{n}", offset=1) for n in range(700)])
    before = bench.contents()
    bench.at(lost).delete(lost)
    bench.scan()
    assert bench.contents() == before


def test_device_that_was_indexed_again_meanwhile__is_not_taken_out(bench: Bench) -> None:
    """Between the look at its hash and the removal, a worker wrote it anew."""
    bench.put([record_of("d", offset=1)])
    index = bench.store._index
    assert bench.run(index.remove({b"d": b"%d" % (BASE_MS - 1)})) == 0
    assert bench.all_ids() == ["d"]
    assert bench.run(index.remove({b"d": b"%d" % BASE_MS})) == 1
    assert bench.all_ids() == []


def test_pruner__takes_out_what_expires_and_what_somebody_deletes_and_adopts(make_bench: MakeBench) -> None:
    bench = make_bench(3600)
    soon_ms = int(time.time() * 1000) - 3_600_000 + 2_000
    bench.put([record_of("stays", offset=1), record_of("deleted", offset=2)])
    bench.put([record_of(f"soon{number}", offset=number, timestamp_ms=soon_ms) for number in range(600)])
    bench.forget("deleted")
    bench.set_by_hand("adopted", {"last_updated": "1795340000"})
    bench.at("devices").sadd("devices", "adopted")

    async def run_until_pruned() -> None:
        pruners = [Pruner(bench.store, Metrics(), interval_s=0.1) for _ in range(2)]
        for pruner in pruners:
            await pruner.start()
        try:
            await wait_until_async(lambda: bench.zset("ids").keys() == {"stays", "adopted"}, 20, "the others to leave")
        finally:
            for pruner in pruners:
                await pruner.stop()

    bench.run(run_until_pruned())
    assert bench.members() == bench.zset("seen").keys() == {"stays", "adopted"}


def test_prune_lease__is_held_by_one_for_its_time(bench: Bench) -> None:
    pruning = bench.store.pruning
    assert bench.run(pruning.take_lease("one", 0.4))
    assert not bench.run(pruning.take_lease("two", 0.4))
    assert bench.run(pruning.take_lease("one", 0.4))
    wait_until(lambda: bench.run(pruning.take_lease("two", 60)), 10, "the lease to end", interval_s=0.02)
    assert not bench.run(pruning.take_lease("one", 60))


# ------------------------------------------------------------------------------- what an earlier service has left


@pytest.mark.parametrize(("epoch", "shown"), [("1795340000", ":20.000000Z"), ("1795340000.25", ":20.250000Z")])
def test_hash_of_an_earlier_service__is_adopted_and_replaced_by_the_first_reading(
    bench: Bench, epoch: str, shown: str
) -> None:
    fields = {"datatype_name": "T", "persist": "true", "last_updated": epoch, "location": "roof"}
    for device_id in ("d", "e"):
        bench.set_by_hand(device_id, fields)
    bench.at("devices").sadd("devices", "d", "e")
    bench.at("device:e:metadata").expire("device:e:metadata", 77)
    assert bench.scan() == 2
    assert bench.all_ids() == ["d", "e"]
    assert bench.deadline_ms("d") == pytest.approx(int(time.time() * 1000) + TTL_S * 1000, abs=5000)
    assert bench.deadline_ms("e") == pytest.approx(int(time.time() * 1000) + 77_000, abs=5000)
    found = bench.get("d")
    assert found is not None
    assert found["last_updated"].endswith(shown)
    long_ago = BASE_MS - 3_600_000
    bench.put([record_of("d", offset=1, timestamp_ms=long_ago, event_time="1971-01-01T00:00:00Z")])
    assert bench.hash_of("d").keys() == {"datatype_name", "persist", "last_updated", "_at"}
    assert bench.hash_of("d")["last_updated"] == "1971-01-01T00:00:00.000000Z"
    assert bench.deadline_ms("d") == pytest.approx(long_ago + TTL_S * 1000, abs=50)


def test_hash_of_an_earlier_service__is_forgotten_by_a_tombstone(bench: Bench) -> None:
    bench.set_by_hand("d", {"last_updated": "9" * 30, "location": "roof"})
    bench.put([tombstone_of("d", offset=1)])
    assert bench.hash_of("d").keys() == {"_gone", "_at"}


def test_fields_that_somebody_else_wrote__do_no_harm(bench: Bench) -> None:
    bench.set_by_hand("d", {"datatype_name": b"\xff", "persist": "no json", "last_updated": "x"})
    bench.set_by_hand("e", {"foreign": "1"})
    bench.set_by_hand("f", {"persist": b'"\xff"', "last_updated": "1e999"})
    found = bench.get_many(["d", "e", "f"])
    assert found[0] is not None
    assert found[0]["persist"] == "no json"
    assert found[1] is None
    assert found[2] is not None
    assert found[2]["persist"] == '"\ufffd"'  # a text: what isn't UTF-8 is not JSON
    bench.put([record_of("e", offset=1)])
    assert bench.get("e") is not None
    assert "foreign" not in bench.hash_of("e")


# ------------------------------------------------------------------------------------------------------ listing


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11, 1000])
def test_list__shows_every_id_once_in_the_order_of_bytes(bench: Bench, limit: int) -> None:
    assert bench.run(bench.store.list_devices(limit, None)) == ([], 0, None)
    names = ["B", "a", "é", "a b", "{x}", "\U0001f321", "10", "9", "a/b", "\uffff"]
    bench.put([record_of(name, offset=number) for number, name in enumerate(names)])
    assert bench.all_ids(limit) == sorted(names, key=str.encode)
    assert bench.run(bench.store.list_devices(limit, None)).total_count == 10


@pytest.mark.parametrize("letter", ["x", "\x01"], ids=["plain", "escaped"])
def test_list__ends_a_page_early_whose_ids_would_be_too_many_bytes_of_json(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    """Each of these is 1,700 bytes: a letter that JSON escapes takes six."""
    monkeypatch.setattr("stream_cache.store.index.MAX_ANSWER_BYTES", 16 * 1024)
    width = len(json.dumps(letter)) - 2
    device_ids = [f"{number:02d}{letter * (1694 // width)}" for number in range(25)]
    bench.put([record_of(device_id, offset=number) for number, device_id in enumerate(device_ids)])
    first = bench.run(bench.store.list_devices(1000, None))
    assert (len(first.device_ids), first.total_count) == (9, 25)
    assert bench.all_ids() == device_ids
    assert len(bench.run(bench.store.list_devices(8, None)).device_ids) == 8


@pytest.mark.parametrize("limit", [2, 7, 1000])
def test_list__never_shows_an_id_whose_hash_is_gone_and_fills_its_pages(bench: Bench, limit: int) -> None:
    bench.put([record_of(f"d{n:03}", offset=1) for n in range(60)])
    bench.forget(*(f"d{n:03}" for n in range(60) if n % 10 or n == 50))
    first = bench.run(bench.store.list_devices(limit, None))
    assert len(first.device_ids) == min(limit, 5)
    assert bench.all_ids(limit) == ["d000", "d010", "d020", "d030", "d040"]


def test_list__shows_ids_that_stay_exactly_once_while_others_come_and_go(bench: Bench) -> None:
    offsets = itertools.count()
    numbers = st.integers(0, 60)

    @given(
        st.sets(numbers, max_size=30),
        st.sets(numbers, max_size=30),
        st.lists(st.sets(numbers, max_size=8), max_size=8),
        st.integers(1, 12),
    )
    @settings(max_examples=25, deadline=None)
    def check(staying: set[int], going: set[int], changes: list[set[int]], limit: int) -> None:
        bench.empty()
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
                make = tombstone_of if number in present else record_of
                bench.put([make(f"d{number}", offset=next(offsets))])
                present ^= {number}
        assert len(set(seen)) == len(seen)
        assert {f"d{number}" for number in staying} <= set(seen)

    check()


@pytest.mark.parametrize("cursor", ["", "!", "abc", "ä", "/w==", "a" * 5, "\x00", "-", "+", "\ud800"])
def test_list__refuses_a_cursor_that_is_not_one_of_ours(bench: Bench, cursor: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        bench.run(bench.store.list_devices(10, cursor))


# ----------------------------------------------------------------------------------------------- faults and state


def test_forgotten_scripts__are_loaded_again(bench: Bench) -> None:
    for offset in (1, 1000, 2000):
        bench.put([record_of(f"d{number}", offset=offset + number) for number in range(250)])
        assert bench.get_many(["d7", "x"])[0] is not None
        assert bench.scan() == 0
        for client in bench.masters:
            client.script_flush()


@pytest.mark.parametrize("trouble", ["maxmemory", "replicaof"])
def test_redis_that_refuses_writes__is_unavailable_and_loses_nothing(bench: Bench, trouble: str) -> None:
    if trouble == "replicaof" and len(bench.masters) > 1:
        pytest.skip("a Cluster's node takes no REPLICAOF")
    records = [record_of(f"d{number}", offset=number) for number in range(300)]
    bench.put(records[:10])
    words = {
        "maxmemory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "out of memory"),
        "replicaof": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "it is a replica"),
    }
    cause, remedy, said = words[trouble]
    for client in bench.masters:
        execute(client, *cause)
    try:
        with pytest.raises(StoreUnavailable, match=said):
            bench.put(records)
        assert bench.get("d1") is not None
    finally:
        for client in bench.masters:
            execute(client, *remedy)
    bench.put(records)
    bench.assert_holds(oracle.fold(records, ttl_s=TTL_S))


def test_state__is_lost_when_any_server_was_emptied(bench: Bench) -> None:
    assert bench.run(bench.store.get_state()) is None
    bench.run(bench.store.set_state("ok"))
    assert bench.run(bench.store.get_state()) == "ok"
    for client in bench.masters:
        client.flushdb()
        assert bench.run(bench.store.get_state()) is None
        bench.run(bench.store.set_state("ok"))
    assert bench.run(bench.store.get_state()) == "ok"
