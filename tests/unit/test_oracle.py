"""The oracle's own rules, each pinned by a case computed by hand, and the generators held against it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any, cast

import pytest
from hypothesis import given

from tests import readings, strategies
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


def winner(*records: Record) -> str | None:
    """Give the `datatype_name` that device d ends with, the same in any order of the records; None: forgotten."""
    names = {fold(some, ttl_s=0).hashes.get("d", {}).get("datatype_name") for some in permutations(records)}
    assert len(names) == 1
    return names.pop()


class TestJudge:
    def test_reading__plain(self) -> None:
        """A good record gives its device, its event time in µs, its index and its metadata object as it is."""
        held = reading(value(index="i", metadata={"a": 1}), offset=7, partition=3)
        assert (held.device_id, held.event_us, held.request_id, held.index) == ("d", NOON_US, "r", "i")
        assert held.metadata == {"a": 1}
        assert held.order == (NOON_US, 7, 3)

    def test_samples__good(self) -> None:
        """Every line of samples/validated_output.jsonl is good, and the times are those that a person reads there."""
        held = [reading(raw) for raw in readings.good_samples()]
        from_quarter_past_ten = [h.event_us - (NOON_US - HOUR_US * 7 // 4) for h in held]
        assert from_quarter_past_ten == [30_123_456, 30_123_456, 31_000_000, 32_500_000, 33_000_001, 34_250_000]
        assert [h.device_id for h in held][2:4] == ["meter/4:B", "buoy-é-12"]
        assert [h.metadata is None for h in held] == [False, False, False, False, True, False]

    @pytest.mark.parametrize("why", readings.bad_samples())
    def test_samples__bad(self, why: str) -> None:
        """Every line of samples/bad_records.jsonl is bad."""
        assert is_bad(readings.bad_samples()[why])

    @pytest.mark.parametrize("name", ["request_id", "timestamp", "device_id", "values"])
    def test_required__missing_or_null(self, name: str) -> None:
        """Each of the four required fields must be there, and null is not there."""
        fields = json.loads(value())
        assert is_bad(json.dumps({k: v for k, v in fields.items() if k != name}).encode())
        assert is_bad(value(**{name: None}))

    def test_index_and_metadata__optional(self) -> None:
        """Both may be absent or null; a null index counts as "", and metadata {} is not null."""
        bare = reading(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[]}')
        assert (bare.index, bare.metadata) == ("", None)
        assert reading(value(index=None, metadata=None)).index == ""
        assert reading(value()).metadata == {}
        assert is_bad(value(index=0))
        assert is_bad(value(metadata=""))

    def test_extra_fields__not_judged(self) -> None:
        """Whatever else stands in the record, or in the metadata, makes nothing bad."""
        reading(value(label=7, labels={}, display_names=None, other=[{}], metadata={"persist": "x", "datatype_id": {}}))

    def test_json__is_that_of_rfc_8259(self) -> None:
        """No BOM, no NaN, no raw control character, nothing behind the object, no other encoding; blanks are fine."""
        good = value()
        reading(b" \r\n\t" + good + b"\n")
        for raw in (b"\xef\xbb\xbf" + good, good + b"x", good + b"\x00", good.decode().encode("utf-16")):
            assert is_bad(raw)
        for inner in (b"NaN", b"Infinity", b"-Infinity", b"01", b'"\n"', b'"\xff"', b'"\xed\xa0\x80"', b"[1,]"):
            assert is_bad(good[:-1] + b',"x":' + inner + b"}")

    def test_json__numbers_of_any_size(self) -> None:
        """A number that no double holds, or one of 5000 digits, is JSON."""
        reading(value()[:-1] + b',"x":[1e400,' + b"9" * 5000 + b"]}")

    def test_json__repeated_name(self) -> None:
        """The last one counts, for better and for worse."""
        assert reading(b'{"device_id":7,' + value(device_id="last")[1:]).device_id == "last"
        assert is_bad(value()[:-1] + b',"device_id":""}')

    def test_json__nested_too_deep(self) -> None:
        """What can't be read for its depth is bad, not fatal."""
        assert is_bad(b"[" * 100_000)
        assert is_bad(b'{"a":' * 100_000)

    def test_surrogate__only_in_device_id(self) -> None:
        """A lone surrogate has no UTF-8 form, so it can name no device; elsewhere it harms nothing."""
        assert is_bad(value(device_id="d\ud800"))
        assert reading(value(device_id="\U0001f321")).device_id == "🌡"
        reading(value(request_id="\ud800", index="\udfff", values=["\ud800"], metadata={"datatype_name": "\ud800"}))

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

    def test_tombstone__empty_value_is_none(self) -> None:
        assert is_bad(b"")

    @pytest.mark.parametrize("key", [None, b"", b"other", b"\xff"])
    def test_reading__any_key(self, key: bytes | None) -> None:
        """A reading's device is the one in its value, whatever its key."""
        assert reading(value(), key=key).device_id == "d"


class TestOrder:
    def test_event_time__first(self) -> None:
        """Event time decides before offset and partition, to the µs."""
        assert winner(named("a", at="12:00:00.000001"), named("b", offset=9, partition=9)) == "a"

    def test_event_time__as_instant(self) -> None:
        """Event times are compared as instants, not as text."""
        assert winner(named("a", at="12:30:00+01:00", offset=9), named("b", at="11:45:00")) == "b"

    def test_offset__then(self) -> None:
        assert winner(named("a", offset=10, partition=0), named("b", offset=9, partition=9)) == "a"

    def test_partition__last(self) -> None:
        assert winner(named("a", offset=9, partition=10), named("b", offset=9, partition=9)) == "a"

    def test_index__one_order_for_all(self) -> None:
        """The hash is of the device: readings of different datatypes follow each other in it."""
        assert winner(named("a", index="x", offset=1), named("b", index="y", offset=2)) == "b"

    def test_duplicate__changes_nothing(self) -> None:
        assert winner(named("a", offset=1), named("b", offset=2), named("a", offset=1)) == "b"

    def test_null_metadata__hides_nothing(self) -> None:
        """It neither changes what is held nor keeps an older reading out, nor makes a device known."""
        newest = record(value(timestamp="2026-11-22T12:30:00", metadata=None), offset=9)
        assert winner(named("a"), newest) == "a"
        assert fold([newest], ttl_s=0).devices == set()

    def test_tombstone__forgets_what_is_older(self) -> None:
        assert winner(named("a"), record(None, offset=1)) is None

    def test_tombstone__leaves_what_is_newer(self) -> None:
        assert winner(named("a", at="12:00:00.000001"), record(None, offset=1)) == "a"

    def test_tombstone__same_event_time(self) -> None:
        """Beside a reading of the same event time the offset decides."""
        assert winner(named("a", offset=1), record(None, offset=2)) is None
        assert winner(named("a", offset=3), record(None, offset=2)) == "a"

    def test_tombstone__other_device(self) -> None:
        assert winner(named("a"), record(None, offset=1, key=b"e")) == "a"


class TestState:
    def test_fields__as_text(self) -> None:
        """A str as it is, null or absent as an absent field, anything else as JSON text."""
        metadata = {"datatype_id": "[1]", "datatype_name": None, "datatype_unit": ["m", "°C"], "persist": [True, False]}
        held = fold([record(value(metadata=metadata))], ttl_s=0).hashes["d"]
        assert held == {
            "datatype_id": "[1]",
            "datatype_unit": '["m", "\\u00b0C"]',
            "persist": "[true, false]",
            "last_updated": "2026-11-22T12:00:00.000000Z",
        }

    @pytest.mark.parametrize(
        ("override", "text"),
        [
            (7, "7"),
            (10**30, "1" + "0" * 30),
            (1.0, "1.0"),
            (False, "false"),
            ({"a": [None]}, '{"a": [null]}'),
            ("", ""),
        ],
    )
    def test_fields__override(self, override: object, text: str) -> None:
        """A gateway's own JSON value is kept as it is, an empty str too."""
        state = fold([record(value(metadata={"datatype_name": override}))], ttl_s=0)
        assert state.hashes["d"]["datatype_name"] == text
        assert (public(state, "d") or {})["datatype_name"] == override

    @pytest.mark.parametrize("metadata", [{}, {"persist": None}])
    def test_persist__true_by_default(self, metadata: dict[str, Any]) -> None:
        assert fold([record(value(metadata=metadata))], ttl_s=0).hashes["d"]["persist"] == "true"

    def test_winner__takes_all_five(self) -> None:
        """Nothing of an older reading shines through where the newer one is silent; extra keys are not kept."""
        older = record(value(metadata={"datatype_id": "x", "datatype_unit": "m", "rssi": 1}))
        newer = record(value(metadata={"last_updated": "never", "_x": 1}), offset=1)
        held = fold([older, newer], ttl_s=0).hashes["d"]
        assert held == {"persist": "true", "last_updated": "2026-11-22T12:00:00.000000Z"}

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

    def test_public__real_json_types(self) -> None:
        """Nulls are None, lists are lists, a str that looks like JSON is a str; an unknown device has none."""
        state = fold([record(value(metadata={"datatype_id": "true", "datatype_unit": ["m"]}))], ttl_s=0)
        assert public(state, "d") == {
            "device_id": "d",
            "datatype_id": "true",
            "datatype_name": None,
            "datatype_unit": ["m"],
            "persist": True,
            "last_updated": "2026-11-22T12:00:00.000000Z",
        }
        assert public(state, "e") is None

    @pytest.mark.parametrize(
        "text", ["1E400", "1.10", "-0", "1" * 5000, '[ "a,}" ,{"b" :1} ]', '{"\\ud800":"\\u00e9"}', "{ }", "false"]
    )
    def test_fields__exactly_as_they_came(self, text: str) -> None:
        """Digits, escapes and white space are kept; the last of a repeated name counts."""
        raw = value(metadata={}).replace(
            b'"metadata": {}', b'"metadata":{"persist":1, "persist" :\t%s\n}' % text.encode()
        )
        assert fold([record(raw)], ttl_s=0).hashes["d"]["persist"] == text


class FakeRedis:
    """Answers the few commands of `assert_equal_to_redis` from dicts, at a clock that stands still at noon."""

    def __init__(self, hashes: dict[bytes, dict[bytes, bytes]], left_ms: int, devices: set[bytes]) -> None:
        self.hashes = hashes
        self.left_ms = left_ms
        self.devices = devices
        self.answers: list[object] = []

    def scan_iter(self, match: str, count: int) -> Iterator[bytes]:
        assert count
        return (key for key in self.hashes if fnmatchcase(key.decode(), match))

    def smembers(self, name: str) -> set[bytes]:
        assert name == "devices"
        return self.devices

    def pipeline(self, *, transaction: bool) -> "FakeRedis":
        assert not transaction
        self.answers = []
        return self

    def time(self) -> None:
        self.answers.append((NOON_MS // 1000, 0))

    def pttl(self, _key: bytes) -> None:
        self.answers.append(self.left_ms)

    def hgetall(self, key: bytes) -> None:
        self.answers.append(self.hashes[key])

    def execute(self) -> list[object]:
        return self.answers


class TestAssertEqualToRedis:
    KEY = b"device:a:metadata:metadata"
    ID = "a:metadata"

    def compare(
        self, *, left_ms: int = 60_000, ttl_s: int = 60, devices: tuple[bytes, ...] = (b"a:metadata",), **held: str
    ) -> None:
        fields = {"datatype_name": "a", "persist": "true", "last_updated": "2026-11-22T12:00:00.000000Z", "_own": "x"}
        hashes = {self.KEY: {name.encode(): text.encode() for name, text in (fields | held).items() if text}}
        state = fold([named("a", device_id=self.ID)], ttl_s=ttl_s)
        assert_equal_to_redis(state, cast("Any", FakeRedis(hashes, left_ms, set(devices))))

    def test_same__passes(self) -> None:
        """Fields of the product's own are skipped, and 2 ms are forgiven."""
        self.compare()
        self.compare(left_ms=60_002)
        self.compare(left_ms=-1, ttl_s=0)

    def test_field__differs(self) -> None:
        with pytest.raises(AssertionError, match=r"datatype_name is b'b', not 'a'"):
            self.compare(datatype_name="b")
        with pytest.raises(AssertionError, match=r"persist is None, not 'true'"):
            self.compare(persist="")
        with pytest.raises(AssertionError, match=r"datatype_id is b'null', not None"):
            self.compare(datatype_id="null")

    def test_deadline__differs(self) -> None:
        for left_ms, ttl_s in ((60_003, 60), (-1, 60), (60_000, 0)):
            with pytest.raises(AssertionError, match="expires at"):
                self.compare(left_ms=left_ms, ttl_s=ttl_s)

    def test_devices__differs(self) -> None:
        with pytest.raises(AssertionError, match=r"in 2 places(.|\n)*b'a:metadata' is missing\n.*b'other' is too many"):
            self.compare(devices=(b"other",))

    def test_hash__missing_or_too_many(self) -> None:
        """Both are told, and of many differences the first ten."""
        held = {b"device:%d:metadata" % i: {b"last_updated": b"x"} for i in range(20)}
        with pytest.raises(AssertionError, match="in 42 places") as caught:
            assert_equal_to_redis(
                fold([named("a"), named("b", device_id="e")], ttl_s=0),
                cast("Any", FakeRedis(held, -1, {b"%d" % i for i in range(18)})),
            )
        assert len(str(caught.value).splitlines()) == 11


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

    def test_seed__decides(self) -> None:
        assert list(readings.generate(1, 500, 9)) == list(readings.generate(1, 500, 9))
        assert list(readings.generate(1, 500, 9)) != list(readings.generate(2, 500, 9))
        assert list(readings.realistic(1, 500, 9)) == list(readings.realistic(1, 500, 9))

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

    def test_realistic__all_good(self) -> None:
        drafts = list(readings.realistic(1, 2000, 50))
        state = fold(readings.with_offsets(drafts), ttl_s=0)
        assert state.bad == []
        assert len(state.devices) == 50
        assert 300 <= sum(len(draft.value or b"") for draft in drafts) / len(drafts) <= 400


class TestStrategies:
    @given(strategies.valid_values())
    def test_valid_values__are_good(self, raw: bytes) -> None:
        reading(raw, timestamp_ms=strategies.RECORD_MS)

    @given(strategies.bad_values())
    def test_bad_values__are_bad(self, raw: bytes) -> None:
        assert is_bad(raw, timestamp_ms=strategies.RECORD_MS)

    @given(strategies.any_json_bytes())
    def test_any_json__is_judged(self, raw: bytes) -> None:
        """Whatever JSON comes, there is a verdict, and a state."""
        fold([record(raw, timestamp_ms=strategies.RECORD_MS)], ttl_s=0)
