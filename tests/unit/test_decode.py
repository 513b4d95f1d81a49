"""The decoder: its fast half, its exact half and the oracle agree; nothing ever escapes it (sections 1 and 2)."""

import dataclasses
import json
from datetime import datetime, timedelta
from typing import Any, cast

import faust
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_cache import decode
from stream_cache.errors import BadRecord
from stream_cache.models import Metadata, Reading, ValidatedOutput
from tests import oracle, readings, strategies
from tests.fakes import Decoded, FakeRecord, decode_all, decoded, json_record, source_record

MS = strategies.RECORD_MS
FIELDS_OF_GOOD_SAMPLES = [json.loads(value) for value in readings.good_samples()]


def record_of(value: bytes | None, key: bytes | None = b"key", timestamp_ms: int = MS) -> oracle.Record:
    return oracle.Record(3, 7, timestamp_ms, key, value)


def event_us(reading: Reading) -> int:
    return (reading.event_time - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001 - naive UTC


def kept_values(metadata: Metadata) -> dict[str, Any]:
    """What is kept, as decoded JSON. What can't be shown without loss is text; so compare with `comparable`."""
    return {name: comparable(getattr(metadata, name)) for name in Metadata.__struct_fields__}


def comparable(value: Any) -> str:
    """JSON text, so that 1, 1.0 and true differ, and a number that no double holds stays what it is."""
    if isinstance(value, msgspec.Raw):
        value = json.loads(bytes(value))
    return json.dumps(value)


def assert_agree(record: oracle.Record) -> None:
    """Hold the decoder's verdict on a record against the oracle's."""
    verdict, chunk = oracle.judge(record), decoded([record])
    if isinstance(verdict, oracle.Bad):
        ((refused, why),) = chunk.bad
        assert refused == source_record(record)
        assert why.kind
        assert why.reason
        assert not chunk.readings
        assert not chunk.tombstones
        return
    assert not chunk.bad, f"{chunk.bad[0][1].reason}, but the oracle takes it"
    if isinstance(verdict, oracle.Tombstone):
        (tombstone,) = chunk.tombstones
        assert (tombstone.device_id, event_us(tombstone) // 1000) == (verdict.device_id, record.timestamp_ms)
        assert tombstone.metadata is None
        return
    if verdict.metadata is None:
        assert chunk == Decoded([], [], [], 1)
        return
    (reading,) = chunk.readings
    assert (reading.device_id, event_us(reading)) == (verdict.device_id, verdict.event_us)
    assert reading.metadata is not None
    wanted = {name: comparable(verdict.metadata.get(name)) for name in oracle.KEPT_OF_METADATA}
    assert kept_values(reading.metadata) == wanted


# ------------------------------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("value", readings.good_samples())
def test_good_sample__is_taken(value: bytes) -> None:
    assert_agree(record_of(value))
    assert not decoded([record_of(value)]).bad


@pytest.mark.parametrize(("why", "value"), readings.bad_samples().items())
def test_bad_sample__is_refused_with_a_reason(why: str, value: bytes) -> None:
    assert_agree(record_of(value))
    assert len(decoded([record_of(value)]).bad) == 1, why


@given(strategies.valid_values())
def test_good_value__is_taken_as_the_oracle_takes_it(value: bytes) -> None:
    assert_agree(record_of(value))
    assert not decoded([record_of(value)]).bad


@given(strategies.bad_values())
def test_bad_value__is_refused(value: bytes) -> None:
    assert_agree(record_of(value))
    assert decoded([record_of(value)]).bad


@given(strategies.any_json_bytes())
@example(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[1e400],"metadata":{"persist":1e400}}')
@example(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{"persist":[true,null]}}')
@example(b'{"request_id":"\\ud800","timestamp":"\\ud800","device_id":"d","values":[]}')
@example(b'{"request_id":"","timestamp":"2026-11-22","device_id":7,"device_id":"d","values":[],"metadata":{}}')
@example(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","device_id":7,"values":[],"metadata":{}}')
@example(b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{},"metadata":null}')
@example(
    b'{"request_id":"","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{"persist":1,"persist":true}}'
)
def test_any_json__is_judged_as_the_oracle_judges_it(value: bytes) -> None:
    assert_agree(record_of(value))


@given(st.none() | st.sampled_from(readings.BAD_TOMBSTONE_KEYS) | st.binary(max_size=8) | st.text().map(readings.utf8))
def test_tombstone__is_judged_by_its_key(key: bytes | None) -> None:
    assert_agree(record_of(None, key))


def test_generated_records__are_judged_as_the_oracle_judges_them() -> None:
    for record in readings.with_offsets(readings.generate(11, 5_000, 200)):
        assert_agree(record)


@given(strategies.event_times() | st.text(max_size=40) | st.datetimes().map(datetime.isoformat))
@example("2026-11-22T24:00:00")
@example("2026-11-22T00:00:00+14:00")
@example("1970-01-01T00:00:00+14:00")
@example("9998-12-31T23:59:59-14:00")
def test_event_time__is_read_as_the_oracle_reads_it(text: str) -> None:
    fields = {**FIELDS_OF_GOOD_SAMPLES[0], "timestamp": text}
    assert_agree(record_of(readings.utf8(json.dumps(fields)), timestamp_ms=253_000_000_000_000))


@pytest.mark.parametrize("timestamp_ms", [0, MS, 2**63 - 1])
@pytest.mark.parametrize("text", ["1969-12-31T23:59:59", "9999-01-01T00:00:00", "9998-12-31T23:59:59.999999"])
def test_year__is_judged_whatever_the_kafka_timestamp(text: str, timestamp_ms: int) -> None:
    fields = {**FIELDS_OF_GOOD_SAMPLES[0], "timestamp": text}
    assert_agree(record_of(readings.utf8(json.dumps(fields)), timestamp_ms=timestamp_ms))


# ------------------------------------------------------------------------------ the two halves, and the Faust Record


def test_wire_type__has_the_judged_fields_of_validated_output_with_their_defaults() -> None:
    wire = {field.name: field for field in msgspec.structs.fields(decode._Wire)}
    options = ValidatedOutput._options
    assert set(wire) == {"request_id", "timestamp", "device_id", "values", "index", "metadata"}
    assert set(wire) < set(options.fields)
    for name, field in wire.items():
        assert field.required == (name not in options.defaults), name
        if not field.required:
            assert field.default == options.defaults[name], name
    not_judged = set(options.fields) - set(wire)
    assert not_judged == {"label", "labels", "display_names"}


@given(strategies.valid_fields())
def test_validated_output__says_the_same_of_a_good_record(fields: dict[str, Any]) -> None:
    value = readings.utf8(json.dumps(fields))
    record = ValidatedOutput.from_data(json.loads(value))  # Faust's own JSON reader rounds numbers beyond 64 bits
    assert isinstance(record, faust.Record)
    wire, _ = decode._judge(value)
    for name in ("request_id", "timestamp", "device_id"):
        assert getattr(record, name) == getattr(wire, name), name
    assert (record.index or "") == (wire.index or "")  # null counts as ""
    assert comparable(record.values) == comparable(wire.values)
    if record.metadata is None:
        assert wire.metadata is None
    else:
        assert kept_values(wire.metadata) == {
            name: comparable(record.metadata.get(name)) for name in oracle.KEPT_OF_METADATA
        }


@given(strategies.valid_values() | strategies.bad_values() | strategies.any_json_bytes() | st.binary(max_size=60))
def test_fast_decoder__takes_only_what_the_exact_one_takes_and_in_the_same_way(value: bytes) -> None:
    try:
        fast = decode._decode_fast(value if value.isascii() else value.decode())
        fast_time = decode._parse_event_time(fast.timestamp)
    except (ValueError, RecursionError):
        return  # it leaves the record to the exact one
    exact, exact_time = decode._judge(value)
    assert fast_time == exact_time
    for name in ("request_id", "timestamp", "device_id"):
        assert getattr(fast, name) == getattr(exact, name), name
    assert (fast.index or "") == (exact.index or "")  # null counts as ""
    assert (fast.metadata is None) == (exact.metadata is None)
    if fast.metadata is not None:
        assert kept_values(fast.metadata) == kept_values(exact.metadata)


@pytest.mark.parametrize("value", readings.good_samples())
def test_fast_decoder__takes_the_usual_shapes(value: bytes) -> None:
    """Else the service is right, but thirty times slower."""
    assert decode._decode_fast(value.decode()).device_id


# ------------------------------------------------------------------------------------------------- nothing escapes


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=200) | strategies.any_json_bytes() | strategies.bad_values(),
            st.none() | st.binary(max_size=20),
            st.integers(-(2**63), 2**63 - 1) | st.integers(MS - 10**9, MS + 10**9),
        ),
        max_size=8,
    ),
    st.floats(0, 315_360_000),
)
def test_any_bytes__never_raise_and_every_record_is_accounted_for(
    records: list[tuple[bytes | None, bytes | None, int]], max_clock_skew_s: float
) -> None:
    chunk = decode_all(
        [FakeRecord(0, offset, timestamp, key, value) for offset, (value, key, timestamp) in enumerate(records)],
        max_clock_skew_s,
    )
    told = (
        [record for record, _ in chunk.bad] + [r.record for r in chunk.readings] + [r.record for r in chunk.tombstones]
    )
    assert len(told) + chunk.without_metadata_count == len(records)
    assert len({record.offset for record in told}) == len(told)
    for _, bad in chunk.bad:
        assert isinstance(bad, BadRecord)
        assert bad.kind != "internal_error"
        assert bad.reason.encode(errors="strict")
        assert len(bad.reason) < 2000


@pytest.mark.parametrize(
    "value",
    [
        b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":' + b"[" * 500_000,
        b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{"persist":'
        + b"[" * 700
        + b"]" * 700
        + b"}}",
        b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{"persist":'
        + b"9" * 100_000
        + b"}}",
        b"9" * 100_000,
        b'"' + b"a" * 1_000_000,
    ],
    ids=["unclosed", "deep values", "deep persist", "long number", "only a number", "long text"],
)
def test_extreme_value__never_raises(value: bytes) -> None:
    chunk = decoded([record_of(value)])
    assert len(chunk.bad) + len(chunk.readings) + chunk.without_metadata_count == 1
    assert "internal_error" not in {bad.kind for _, bad in chunk.bad}


@pytest.mark.parametrize("number", [b"1e999", b"9" * 5_000])
@pytest.mark.parametrize("held", [b'["\\ud800", %s]', b'{"\\ud800": %s}', b'[[{"a": "x\\udfff"}], -%s]'])
def test_number_that_no_float_holds_beside_half_of_a_pair__is_kept_as_it_is(held: bytes, number: bytes) -> None:
    text = held % number
    value = b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":[],"metadata":{"persist":%s}}' % text
    (reading,) = decoded([record_of(value)]).readings
    assert reading.metadata is not None
    assert bytes(cast("msgspec.Raw", reading.metadata.persist)) == text


def test_fault_of_the_decoder__is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of: were it raised, every worker in turn would die of that record."""

    def fail(_value: bytes) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr("stream_cache.decode._judge", fail)
    good = next(iter(readings.good_samples()))
    chunk = decoded([record_of(b"odd"), record_of(good)])
    ((_, bad),) = chunk.bad
    assert (bad.kind, "never thought of" in bad.reason) == ("internal_error", True)
    assert len(chunk.readings) + chunk.without_metadata_count == 1


# ------------------------------------------------------------------------------------------------------ neighbours


@given(st.lists(st.tuples(st.booleans(), strategies.bad_values(), strategies.valid_values()), max_size=4))
@settings(max_examples=50, deadline=None)
def test_bad_neighbour__harms_nobody(records: list[tuple[bool, bytes, bytes]]) -> None:
    """A chunk says of its records what each would say alone, in their order."""
    chunk_records = [
        dataclasses.replace(record_of(bad if is_bad else good), offset=offset)
        for offset, (is_bad, bad, good) in enumerate(records)
    ]
    together, alone = decoded(chunk_records), [decoded([record]) for record in chunk_records]
    assert [record for record, _ in together.bad] == [record for chunk in alone for record, _ in chunk.bad]
    assert [bad.reason for _, bad in together.bad] == [bad.reason for chunk in alone for _, bad in chunk.bad]
    assert [reading.record for reading in together.readings] == [r.record for chunk in alone for r in chunk.readings]
    assert together.without_metadata_count == sum(chunk.without_metadata_count for chunk in alone)


# ------------------------------------------------------------------------------------------------------ clock skew


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.sampled_from([-1, 0, 1, 2])), min_size=1, max_size=8),
    st.sampled_from([0, 1, 3600, 86_400]),
)
def test_clock_limit__is_exact_for_each_record_of_a_chunk(records: list[tuple[int, int]], skew_s: int) -> None:
    """To the microsecond, measured from the record's own Kafka timestamp, whatever its neighbours'."""
    chunk_records = [
        json_record(
            "d",
            offset=offset,
            timestamp_ms=MS + later_ms,
            event_time=oracle.time_text((MS + later_ms + skew_s * 1000) * 1000 + beyond_us),
        )
        for offset, (later_ms, beyond_us) in enumerate(records)
    ]
    chunk = decoded(chunk_records, skew_s)
    beyond = {offset for offset, (_, beyond_us) in enumerate(records) if beyond_us > 0}
    assert {record.offset for record, _ in chunk.bad} == beyond
    assert {bad.kind for _, bad in chunk.bad} <= {"clock_ahead"}
    assert {reading.record.offset for reading in chunk.readings} == set(range(len(records))) - beyond


def test_clock_limit__has_fractions_of_a_second() -> None:
    at_limit, beyond = (json_record("d", event_time=oracle.time_text(MS * 1000 + us)) for us in (500_000, 500_001))
    assert not decoded([at_limit], 0.5).bad
    assert decoded([beyond], 0.5).bad


# -------------------------------------------------------------------------------------------------------- wordings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device_id": 7}, "device_id: must be a string, is a number"),
        ({"device_id": ""}, "device_id: must not be empty"),
        ({"values": {}}, "values: must be a list, is an object"),
        ({"index": 1.5}, "index: must be a string or null, is a number"),
        ({"metadata": []}, "metadata: must be an object or null, is a list"),
        ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is no ISO 8601 date and time"),
        ({"timestamp": "1969-12-31"}, "the year 1969 is not in 1970 to 9998"),
        ({"request_id": None}, "request_id: must be a string, is null"),
    ],
)
def test_reason__names_the_field_and_what_is_wrong(change: dict[str, Any], words: str) -> None:
    ((_, bad),) = decoded([record_of(json.dumps({**FIELDS_OF_GOOD_SAMPLES[0], **change}).encode())]).bad
    assert words in bad.reason
    wanted = None if "request_id" in change else FIELDS_OF_GOOD_SAMPLES[0]["request_id"]
    assert bad.request_id == wanted


@pytest.mark.parametrize("name", ["request_id", "timestamp", "device_id", "values"])
def test_reason__names_a_missing_field(name: str) -> None:
    fields = {key: value for key, value in FIELDS_OF_GOOD_SAMPLES[0].items() if key != name}
    ((_, bad),) = decoded([record_of(json.dumps(fields).encode())]).bad
    assert bad.reason == f"{name}: required, but missing"
    assert bad.kind == "missing_field"
