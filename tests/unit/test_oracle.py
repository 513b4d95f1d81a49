"""The oracle's own rules, each pinned by a case computed by hand, and the generators held against it."""

import json
import time
from datetime import UTC, datetime
from itertools import permutations
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests import readings
from tests.oracle import Bad, Reading, Record, Tombstone, assert_equal_to_redis, fold, judge, public

NOON_MS = 1_795_348_800_000  # 2026-11-22T12:00:00Z
NOON_US = NOON_MS * 1000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US


def value(**fields: Any) -> bytes:
    """Write a good reading of device d at noon, with these fields instead."""
    good = {"request_id": "r", "timestamp": "2026-11-22T12:00:00", "device_id": "d", "values": [1], "metadata": {}}
    return json.dumps(good | fields).encode()


def record(
    raw: bytes | None, *, offset: int = 0, partition: int = 0, timestamp_ms: int = NOON_MS, key: bytes | None = b"d"
) -> Record:
    return Record(partition, offset, timestamp_ms, key, raw)


def named(name: str, *, at: str = "12:00:00", offset: int = 0, partition: int = 0, **other: Any) -> Record:
    """Give a reading that tells itself by its `datatype_name`."""
    raw = value(timestamp=f"2026-11-22T{at}", metadata={"datatype_name": name}, **other)
    return record(raw, offset=offset, partition=partition)


def is_bad(raw: bytes | None, **other: Any) -> bool:
    return isinstance(judge(record(raw, **other)), Bad)


def reading(raw: bytes, **other: Any) -> Reading:
    verdict = judge(record(raw, **other))
    assert isinstance(verdict, Reading), verdict
    return verdict


class TestJudge:
    def test_reading__plain(self) -> None:
        """A good record gives its device, whatever its key, and its event time in µs; a null index counts as ""."""
        held = reading(value(index="i", metadata={"a": 1}), offset=7, partition=3, key=b"\xff")
        assert (held.device_id, held.event_us, held.request_id, held.index) == ("d", NOON_US, "r", "i")
        assert held.metadata == {"a": 1}
        assert held.order == (NOON_US, 7, 3)
        bare = reading(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[]}')
        assert (bare.index, bare.metadata) == ("", None)
        assert reading(value(index=None)).index == ""

    def test_samples__good(self) -> None:
        """Every line of samples/validated_output.jsonl is good, and the times are those that a person reads there."""
        held = [reading(raw) for raw in readings.good_samples()]
        from_quarter_past_ten = [h.event_us - (NOON_US - HOUR_US * 7 // 4) for h in held]
        assert from_quarter_past_ten == [30_123_456, 30_123_456, 31_000_000, 32_500_000, 33_000_001, 34_250_000]
        assert [h.device_id for h in held][2:4] == ["meter/4:B", "buoy-é-12"]
        assert [h.metadata is None for h in held] == [False, False, False, False, True, False]

    @pytest.mark.parametrize(
        ("text", "after_noon_us"),
        [
            ("2026-11-22T12:00:01", SECOND_US),
            ("2026-11-22T12:00:01Z", SECOND_US),
            ("2026-11-22T14:00:01+02:00", SECOND_US),
            ("2026-11-22T06:30:01-05:30", SECOND_US),
            ("2026-11-23T00:00:01+12:00", SECOND_US),
            ("2026-11-22T12:00:00.5", 500_000),
            ("2026-11-22 12:00:00,123", 123_000),
            ("2026-11-22T12:00:00.000001", 1),
            ("2026-11-22T12:00:00.0000019Z", 1),
            ("20261122T1200", 0),
            ("2026-W47-7T12", 0),
            ("2026-11-22", -12 * HOUR_US),
        ],
    )
    def test_event_time__forms(self, text: str, after_noon_us: int) -> None:
        """Naive is UTC, offsets count, a date alone is midnight, and digits beyond the µs are cut off."""
        assert reading(value(timestamp=text)).event_us == NOON_US + after_noon_us

    def test_event_time__years(self) -> None:
        """1970 to 9998 in UTC: a zone may carry the instant across the edge."""
        far_ms = 300_000_000_000_000
        assert reading(value(timestamp="1970-01-01T00:00:00")).event_us == 0
        assert reading(value(timestamp="1969-12-31T23:00:00-02:00")).event_us == HOUR_US
        reading(value(timestamp="9999-01-01T00:59:59.999999+01:00"), timestamp_ms=far_ms)
        for text in ("1969-12-31T23:59:59.999999", "1970-01-01T00:00:00+01:00", "0001-01-01T00:00:00+23:00"):
            assert is_bad(value(timestamp=text))
        for text in ("9999-01-01T00:00:00", "9998-12-31T23:59:59.999999-23:59", "9999-12-31T23:59:59-23:59"):
            assert is_bad(value(timestamp=text), timestamp_ms=far_ms)

    def test_no_timestamp(self) -> None:
        """A reading's event time takes its place; how far ahead it lies is counted from the worker's clock."""
        ahead = datetime.fromtimestamp(time.time() + 7200, UTC).isoformat()
        assert reading(value(timestamp="2026-01-01T00:00:01.5"), timestamp_ms=-1).record_ms == 1_767_225_601_500
        assert is_bad(value(timestamp=ahead), timestamp_ms=-1)
        assert is_bad(None, timestamp_ms=-1)
        assert fold([record(value(timestamp="2026-01-01"), timestamp_ms=-1)], ttl_s=1).deadlines == {
            "d": 1_767_225_601_000
        }

    def test_event_time__ahead(self) -> None:
        """The skew itself is allowed, a µs more is not; it counts from the Kafka timestamp."""
        at_limit, beyond = value(timestamp="2026-11-22T13:00:00"), value(timestamp="2026-11-22T13:00:00.000001")
        reading(at_limit)
        assert is_bad(beyond)
        reading(beyond, timestamp_ms=NOON_MS + 1)
        assert isinstance(judge(record(value(timestamp="2026-11-22T12:00:00.001")), max_clock_skew_s=0), Bad)

    def test_tombstone__readable_key(self) -> None:
        """A null value forgets the device of the key, at the Kafka timestamp; without a readable key it is bad."""
        verdict = judge(record(None, key="é".encode(), offset=5, partition=2))
        assert isinstance(verdict, Tombstone)
        assert (verdict.device_id, verdict.order) == ("é", (NOON_US, 5, 2))
        for key in (None, b"", b"\xff", b"\xed\xa0\x80"):
            assert is_bad(None, key=key)
        assert is_bad(b""), "an empty value is no null"


class TestOrder:
    @pytest.mark.parametrize(
        ("records", "name"),
        [
            ([named("a", at="12:00:00.000001"), named("b", offset=9, partition=9)], "a"),
            ([named("a", at="12:30:00+01:00", offset=9), named("b", at="11:45:00")], "b"),
            ([named("a", offset=10, partition=0), named("b", offset=9, partition=9)], "a"),
            ([named("a", offset=9, partition=10), named("b", offset=9, partition=9)], "a"),
            ([named("a", index="x", offset=1), named("b", index="y", offset=2)], "b"),
            ([named("a", offset=1), named("b", offset=2), named("a", offset=1)], "b"),
            ([named("a"), record(None, offset=1)], None),
            ([named("a", at="12:00:00.000001"), record(None, offset=1)], "a"),
            ([named("a", offset=3), record(None, offset=2)], "a"),
            ([named("a"), record(None, offset=1, key=b"e")], "a"),
        ],
        ids=[
            *("event time to the µs", "event time as instant, not text", "then the offset", "then the partition"),
            *("one order for every index", "a duplicate", "a tombstone forgets what is older"),
            *("it leaves what is newer", "beside one of its event time the offset decides", "of another device"),
        ],
    )
    def test_latest__wins_in_any_order(self, records: list[Record], name: str | None) -> None:
        """The name is the `datatype_name` that device d ends with, None where it is forgotten."""
        held = [fold(some, ttl_s=0).hashes.get("d", {}).get("datatype_name") for some in permutations(records)]
        assert set(held) == {name}

    def test_null_metadata__hides_nothing(self) -> None:
        """It neither changes what is held nor keeps an older reading out, nor makes a device known."""
        newest = record(value(timestamp="2026-11-22T12:30:00", metadata=None), offset=9)
        assert fold([named("a"), newest], ttl_s=0) == fold([newest, named("a")], ttl_s=0) == fold([named("a")], ttl_s=0)
        assert fold([newest], ttl_s=0).devices == set()


class TestState:
    def test_fields__as_text_and_in_public(self) -> None:
        """A str as it is, null or absent as an absent field, anything else as JSON text; in public real JSON types."""
        metadata = {"datatype_id": "[1]", "datatype_name": None, "datatype_unit": ["m", "°C"], "persist": ""}
        state = fold([record(value(metadata=metadata))], ttl_s=0)
        last_updated = "2026-11-22T12:00:00.000000Z"
        assert state.hashes["d"] == {
            "datatype_id": "[1]",
            "datatype_unit": '["m", "\\u00b0C"]',
            "persist": "",
            "last_updated": last_updated,
        }
        assert public(state, "d") == {"device_id": "d", **metadata, "last_updated": last_updated}
        assert public(state, "e") is None

    @pytest.mark.parametrize("persist", [{}, {"persist": None}])
    def test_winner__takes_all_five(self, persist: dict[str, Any]) -> None:
        """Nothing of an older reading shines through where the newer one is silent; extra keys are not kept."""
        older = record(value(metadata={"datatype_id": "x", "datatype_unit": "m", "persist": False, "rssi": 1}))
        newer = record(value(metadata={"last_updated": "never", "_x": 1, **persist}), offset=1)
        state = fold([older, newer], ttl_s=0)
        assert state.hashes["d"] == {"persist": "true", "last_updated": "2026-11-22T12:00:00.000000Z"}
        assert (public(state, "d") or {})["persist"] is True

    def test_last_updated__in_utc(self) -> None:
        """Always six digits and Z."""
        held = fold([record(value(timestamp="2026-11-22T12:15:32.5+02:00"))], ttl_s=0).hashes["d"]
        assert held["last_updated"] == "2026-11-22T10:15:32.500000Z"

    def test_deadline__from_the_winners_kafka_timestamp(self) -> None:
        """The TTL counts from the record that won, also when another came later; 0 never expires."""
        won = Record(0, 0, NOON_MS, b"d", value(timestamp="2026-11-22T12:00:01"))
        lost = Record(0, 1, NOON_MS + 9000, b"d", value())
        assert fold([won, lost], ttl_s=60).deadlines == {"d": NOON_MS + 60_000}
        assert fold([won, lost], ttl_s=0).deadlines == {"d": None}

    def test_ttl__what_is_older_is_not_written(self) -> None:
        """At its deadline a record is too old, a ms before it is not; so for a tombstone. Without TTL nothing is."""
        records = [named("a"), record(None, key=b"e")]
        at_deadline = NOON_MS + 60_000
        assert fold(records, ttl_s=60, now_ms=at_deadline).devices == set()
        assert fold(records, ttl_s=60, now_ms=at_deadline).tombstones == {}
        assert fold(records, ttl_s=60, now_ms=at_deadline - 1).devices == {"d"}
        assert fold(records, ttl_s=60, now_ms=at_deadline - 1).tombstones == {"e": (NOON_US, 0, 0)}
        assert fold(records, ttl_s=0, now_ms=2 * NOON_MS).devices == {"d"}

    def test_devices__those_with_a_hash(self) -> None:
        state = fold([named("a"), named("b", device_id="e"), record(None, offset=1)], ttl_s=0)
        assert state.devices == set(state.hashes) == {"e"}
        assert state.tombstones == {"d": (NOON_US, 1, 0)}

    def test_bad__each_once_in_order(self) -> None:
        """A bad record is listed once however often it is delivered, and changes nothing else."""
        bad = [record(b"x", offset=4, partition=1), record(b"y", offset=5), record(b"x", offset=4, partition=1)]
        state = fold([*bad, named("a")], ttl_s=0)
        assert state.bad == [(0, 5), (1, 4)]
        assert state.devices == {"d"}

    @pytest.mark.parametrize(
        "text", ["1E400", "1.10", "-0", "1" * 5000, '[ "a,}" ,{"b" :1} ]', '{"\\ud800":"\\u00e9"}', "{ }", "false"]
    )
    def test_fields__exactly_as_they_came(self, text: str) -> None:
        """Digits, escapes and white space are kept; the last of a repeated name counts."""
        raw = value(metadata={}).replace(
            b'"metadata": {}', b'"metadata":{"persist":1, "persist" :\t%s\n}' % text.encode()
        )
        assert fold([record(raw)], ttl_s=0).hashes["d"]["persist"] == text


class TestAssertEqualToRedis:
    """What it finds where a Redis differs; that it reads a real one rightly, the tests against one show."""

    def compare(
        self, *, left_ms: int = 60_000, ttl_s: int = 60, devices: tuple[bytes, ...] = (b"a:metadata",), **held: str
    ) -> None:
        fields = {"datatype_name": "a", "persist": "true", "last_updated": "2026-11-22T12:00:00.000000Z", "_own": "x"}
        texts = {name.encode(): text.encode() for name, text in (fields | held).items() if text}
        redis = redis_of({b"device:a:metadata:metadata": texts}, left_ms, set(devices))
        assert_equal_to_redis(fold([named("a", device_id="a:metadata")], ttl_s=ttl_s), redis)

    def test_same__passes(self) -> None:
        """Fields of the product's own are skipped, and 2 ms are forgiven."""
        self.compare()
        self.compare(left_ms=60_002)
        self.compare(left_ms=-1, ttl_s=0)

    @pytest.mark.parametrize(
        ("held", "said"),
        [
            ({"datatype_name": "b"}, r"datatype_name is b'b', not 'a'"),
            ({"persist": ""}, r"persist is None, not 'true'"),
            ({"datatype_id": "null"}, r"datatype_id is b'null', not None"),
            ({"left_ms": 60_003}, "expires at"),
            ({"left_ms": -1}, "expires at"),
            ({"ttl_s": 0}, "expires at"),
            ({"devices": (b"other",)}, r"in 2 places(.|\n)*b'a:metadata' is missing\n.*b'other' is too many"),
        ],
        ids=str,
    )
    def test_difference__is_told(self, held: dict[str, Any], said: str) -> None:
        with pytest.raises(AssertionError, match=said):
            self.compare(**held)

    def test_hash__missing_or_too_many(self) -> None:
        """Both are told, and of many differences the first ten."""
        held = {b"device:%d:metadata" % i: {b"last_updated": b"x"} for i in range(20)}
        with pytest.raises(AssertionError, match="in 42 places") as caught:
            assert_equal_to_redis(
                fold([named("a"), named("b", device_id="e")], ttl_s=0),
                redis_of(held, -1, {b"%d" % i for i in range(18)}),
            )
        assert len(str(caught.value).splitlines()) == 11


def redis_of(hashes: dict[bytes, dict[bytes, bytes]], left_ms: int, devices: set[bytes]) -> MagicMock:
    """Stand for a Redis that holds these, at a clock that stands still at noon."""
    noon = (NOON_MS // 1000, 0)
    redis = MagicMock()
    redis.scan_iter.return_value = hashes
    redis.smembers.return_value = devices
    answers = [answer for key in sorted(hashes) for answer in (noon, left_ms, noon, hashes[key])]
    redis.pipeline.return_value.execute.return_value = answers
    return redis


class TestGenerate:
    def test_kinds__as_meant(self) -> None:
        """The oracle finds every draft to be what it was meant to be, and every kind of bad one occurs."""
        drafts = list(readings.generate(1, 5000, 100, bad_share=0.5))
        for draft, each in zip(drafts, readings.with_offsets(drafts), strict=True):
            verdict = judge(each)
            kind = {Bad: "bad", Tombstone: "tombstone", Reading: "reading"}[type(verdict)]
            if isinstance(verdict, Reading) and verdict.metadata is None:
                kind = "null_metadata"
            assert kind == draft.kind, (draft, verdict)
        assert {draft.why for draft in drafts} == {"", "tombstone without a readable key", *readings.BAD_VALUES}

    def test_order__every_rule_decides_somewhere(self) -> None:
        """The generated records are worth folding: late and equal event times change who wins, and tombstones win."""
        records = list(readings.with_offsets(readings.generate(3, 10_000, 500)))
        good = [
            v
            for v in map(judge, records)
            if isinstance(v, Tombstone) or (isinstance(v, Reading) and v.metadata is not None)
        ]
        by_device: dict[str, list[Reading | Tombstone]] = {}
        for each in good:
            by_device.setdefault(each.device_id, []).append(each)
        rivals = [sorted(some, key=lambda v: v.order)[-2:] for some in by_device.values() if len(some) > 1]
        assert sum(one.order[0] == other.order[0] for one, other in rivals) >= 10
        assert sum(one.order[1] > other.order[1] for one, other in rivals) >= 10
        assert sum(isinstance(other, Tombstone) for _, other in rivals) >= 5
