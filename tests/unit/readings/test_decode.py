"""The decoder: its fast half, its exact half and the oracle agree; nothing ever escapes it (sections 1 and 2)."""

import json
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_cache.errors import BadRecord
from stream_cache.kafka.validated_output import ValidatedOutput
from stream_cache.readings import decode, metadata, times
from stream_cache.readings.judge import judge
from stream_cache.readings.metadata import Metadata
from stream_cache.readings.reading import Reading, Record
from stream_cache.readings.wire import Wire
from stream_cache.store.hashes import to_texts
from tests import oracle, readings, strategies
from tests.fakes import Decoded, FakeRecord, decode_all, decoded, json_record, source_record

MS = strategies.RECORD_MS
FIELDS_OF_GOOD_SAMPLES = [json.loads(value) for value in readings.good_samples()]


def record_of(value: bytes | None, key: bytes | None = b"key", timestamp_ms: int = MS) -> oracle.Record:
    return oracle.Record(3, 7, timestamp_ms, key, value)


def event_us(reading: Reading) -> int:
    return (reading.event_time - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001 - naive UTC


def kept_texts(metadata: Metadata) -> dict[str, str]:
    """Give the JSON text that is kept of each field."""
    return {name: bytes(getattr(metadata, name)).decode() for name in Metadata.__struct_fields__}


def decoded_metadata(text: str) -> Metadata:
    """Decode a reading with this metadata, and return what is kept of it."""
    (reading,) = decoded([json_record("d", metadata=text)]).readings
    return reading.metadata


def assert_agree(record: oracle.Record) -> None:
    """Hold the decoder's verdict on a record against the oracle's."""
    verdict, chunk = oracle.judge(record), decoded([record])
    if isinstance(verdict, oracle.Bad):
        ((refused, why),) = chunk.bad
        assert refused == Record.of(source_record(record), record.partition)
        assert why.kind
        assert why.reason
        assert not chunk.readings
        assert not chunk.tombstones
        return
    assert not chunk.bad, f"{chunk.bad[0][1].reason}, but the oracle takes it"
    if isinstance(verdict, oracle.Tombstone):
        (tombstone,) = chunk.tombstones
        assert (tombstone.device_id, event_us(tombstone) // 1000) == (verdict.device_id, record.timestamp_ms)
        assert tombstone.is_tombstone
        return
    if verdict.metadata is None:
        assert chunk == Decoded([], [], [], 1)
        return
    (reading,) = chunk.readings
    assert (reading.device_id, event_us(reading)) == (verdict.device_id, verdict.event_us)
    assert reading.record_ms == verdict.record_ms
    texts = verdict.texts
    assert kept_texts(reading.metadata) == {name: texts.get(name, "null") for name in oracle.KEPT_OF_METADATA}


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
@example("1969-12-31T23:00:00-01:00")
@example("9998-12-31T23:59:59-14:00")
@example("9999-01-01T01:00:00+02:00")
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example("2026-11-22T12:15:30.1234567+02:00")
@example("2026-11-22T12:15:30.1234567+0200")
@example("2026-11-22+02:00")
@example("2026-11-22 12:15:30z")
@example("2026-11-22T12:15:30-00:00")
@example("-1")
def test_event_time__is_read_as_the_oracle_reads_it(text: str) -> None:
    fields = {**FIELDS_OF_GOOD_SAMPLES[0], "timestamp": text}
    assert_agree(record_of(readings.utf8(json.dumps(fields)), timestamp_ms=253_000_000_000_000))


@pytest.mark.parametrize("timestamp_ms", [0, MS, 2**63 - 1])
@pytest.mark.parametrize("text", ["1969-12-31T23:59:59", "9999-01-01T00:00:00", "9998-12-31T23:59:59.999999"])
def test_year__is_judged_whatever_the_kafka_timestamp(text: str, timestamp_ms: int) -> None:
    fields = {**FIELDS_OF_GOOD_SAMPLES[0], "timestamp": text}
    assert_agree(record_of(readings.utf8(json.dumps(fields)), timestamp_ms=timestamp_ms))


# ------------------------------------------------------------------------------ the two halves, and the Faust Record


def test_wire__has_the_judged_fields_of_validated_output_with_their_defaults() -> None:
    wire = {field.name: field for field in msgspec.structs.fields(Wire)}
    options = ValidatedOutput._options
    assert set(options.fields) - set(wire) == {"label", "labels", "display_names"}
    assert set(wire) < set(options.fields)
    for name, field in wire.items():
        assert field.required == (name not in options.defaults), name
        if not field.required:
            assert field.default == options.defaults[name], name


@given(strategies.valid_values() | strategies.bad_values() | strategies.any_json_bytes() | st.binary(max_size=60))
def test_fast_decoder__takes_only_what_the_exact_one_takes_and_in_the_same_way(value: bytes) -> None:
    try:
        fast = decode._decode_fast(value if value.isascii() else value.decode())
        fast_time = times.parse_event_time(fast.timestamp)
    except (ValueError, RecursionError):
        return  # it leaves the record to the exact one
    exact, exact_time = judge(value)
    assert fast_time == exact_time
    for name in ("request_id", "timestamp", "device_id"):
        assert getattr(fast, name) == getattr(exact, name), name
    assert (fast.index or "") == (exact.index or "")  # null counts as ""
    assert (fast.metadata is None) == (exact.metadata is None)
    if exact.metadata is not None:
        assert metadata._read_fast(value).metadata == metadata._read_exactly(value.decode())


@pytest.mark.parametrize("name", ["validated_output", "mixed_shapes"])
def test_usual_shapes__are_taken_by_the_fast_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the service is right, but ten times slower."""

    def fail(value: bytes) -> None:
        raise AssertionError(value)

    monkeypatch.setattr("stream_cache.readings.decode.judge", fail)
    assert not decoded(map(record_of, (readings.SAMPLES / f"{name}.jsonl").read_bytes().splitlines())).bad


# ------------------------------------------------------------------------------------------------- nothing escapes


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.none(),
                st.binary(max_size=200),
                strategies.any_json_bytes(),
                strategies.bad_values(),
                strategies.valid_values(),
            ),
            st.none() | st.binary(max_size=20),
            st.integers(-(2**63), 2**63 - 1) | st.integers(MS - 10**9, MS + 10**9),
        ),
        max_size=8,
    ),
    st.floats(0, 315_360_000),
)
def test_any_bytes__never_raise_harm_no_neighbour_and_every_record_is_accounted_for(
    records: list[tuple[bytes | None, bytes | None, int]], max_clock_skew_s: float
) -> None:
    """`decode_all` holds the chunk against each record alone."""
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


HEAD = b'{"request_id":"r","timestamp":"2026-11-22","device_id":"d","values":'


@pytest.mark.parametrize(
    "value",
    [
        HEAD + b"[" * 500_000,
        HEAD + b"[" * 900 + b"]" * 900 + b"}",
        HEAD + b'[],"metadata":{"persist":' + b"[" * 700 + b"]" * 700 + b"}}",
        HEAD + b'[],"metadata":{"persist":' + b"9" * 100_000 + b"}}",
        b"9" * 100_000,
        b'"' + b"a" * 1_000_000,
    ],
    ids=["unclosed", "deep values", "deep persist", "long number", "only a number", "long text"],
)
def test_extreme_value__never_raises(value: bytes) -> None:
    chunk = decoded([record_of(value)])
    assert len(chunk.bad) + len(chunk.readings) + chunk.without_metadata_count == 1
    assert "internal_error" not in {bad.kind for _, bad in chunk.bad}


def test_fault_of_the_decoder__is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of: were it raised, every worker in turn would die of that record."""

    def fail(_value: bytes) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr("stream_cache.readings.decode.judge", fail)
    good = next(iter(readings.good_samples()))
    chunk = decoded([record_of(b"odd"), record_of(good)])
    ((_, bad),) = chunk.bad
    assert (bad.kind, "never thought of" in bad.reason) == ("internal_error", True)
    assert len(chunk.readings) + chunk.without_metadata_count == 1


# ------------------------------------------------------------------------------------------------------ clock skew


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.sampled_from([-1, 0, 1, 2])), min_size=1, max_size=8),
    st.sampled_from([0, 0.5, 3600]),
)
def test_clock_limit__is_exact_for_each_record_of_a_chunk(records: list[tuple[int, int]], skew_s: float) -> None:
    """To the microsecond, measured from the record's own Kafka timestamp, whatever its neighbours'."""
    chunk_records = [
        json_record(
            "d",
            offset=offset,
            timestamp_ms=MS + later_ms,
            event_time=oracle.time_text((MS + later_ms + int(skew_s * 1000)) * 1000 + beyond_us),
        )
        for offset, (later_ms, beyond_us) in enumerate(records)
    ]
    chunk = decoded(chunk_records, skew_s)
    beyond = {offset for offset, (_, beyond_us) in enumerate(records) if beyond_us > 0}
    assert {record.offset for record, _ in chunk.bad} == beyond
    assert {bad.kind for _, bad in chunk.bad} <= {"clock_ahead"}
    assert {reading.record.offset for reading in chunk.readings} == set(range(len(records))) - beyond


# -------------------------------------------------------------------------------------------------------- wordings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device_id": 7}, "device_id: must be a string, is a number"),
        ({"device_id": ""}, "device_id: must not be empty"),
        ({"values": {}}, "values: must be a list, is an object"),
        ({"index": 1.5}, "index: must be a string or null, is a number"),
        ({"metadata": []}, "metadata: must be an object or null, is a list"),
        ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is not an ISO 8601 date-time"),
        ({"timestamp": "1969-12-31"}, "in UTC, the year 1969 is not in 1970 to 9998"),
        ({"timestamp": "0001-01-01T00:00:00+23:00"}, "in UTC, the year is not in 1970 to 9998"),
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
    assert (bad.kind, bad.request_id) == ("missing_field", fields.get("request_id"))


# ------------------------------------------------------------------------------------------------- exactly as it came


EXACT = [
    "0.12345678901234567890123",
    '{"a": 1.10}',
    "1.10",
    "1E400",
    "-0",
    "12345678901234567890",
    "7" * 5000,
    '["m","s"]',
    '["m", "s"]',
    '[ "m" ,\t"s"\n]',
    '["\\u00b0C"]',
    '["\\ud800", 1.0]',
    '{"\\ud800": [1e999, -%s]}' % ("9" * 5_000),
    '{"persist": 1, "persist": 1.0}',
    "{ }",
]


@pytest.mark.parametrize("text", EXACT)
@pytest.mark.parametrize("name", oracle.KEPT_OF_METADATA)
@pytest.mark.parametrize(
    "metadata",
    ['{"%s":%s}', '{"%s":1, "%s" : %s }', '{"\\ud800":[",}"],"%s": %s}'],
    ids=["alone", "last", "exact reader"],
)
def test_other_json__is_kept_exactly_as_it_came(metadata: str, name: str, text: str) -> None:
    """Digits, escapes and white space; half of a surrogate pair is for the exact decoder only."""
    names = (name,) * (metadata.count("%s") - 1)
    held = decoded_metadata(metadata % (*names, text))
    assert kept_texts(held) == {**dict.fromkeys(oracle.KEPT_OF_METADATA, "null"), name: text}
    texts = dict(zip(oracle.KEPT_OF_METADATA, to_texts(held), strict=False))
    assert texts == {**dict.fromkeys(oracle.KEPT_OF_METADATA), "persist": "true", name: text}


# --------------------------------------------------------------------------------------------------- Kafka timestamps


def decoded_at(record: oracle.Record, now_ms: int) -> tuple[list[Reading], list[tuple[Record, BadRecord]]]:
    """Decode one record by a worker whose clock says `now_ms`."""
    chunk = decode.decode_chunk([source_record(record)], 0, 3600, clock=lambda: now_ms / 1000)
    return list(chunk.latest.by_device.values()), chunk.bad


def test_no_kafka_timestamp__event_time_takes_its_place_up_to_the_workers_clock() -> None:
    at_limit = oracle.time_text((MS + 3_600_000) * 1000)
    ((reading,), bad) = decoded_at(json_record("d", timestamp_ms=-1, event_time=at_limit), MS)
    assert not bad
    assert reading.record_ms == MS + 3_600_000
    beyond = oracle.time_text((MS + 3_600_000) * 1000 + 1)
    (kept, ((_, refused),)) = decoded_at(json_record("d", timestamp_ms=-1, event_time=beyond), MS)
    assert not kept
    assert refused.kind == "clock_ahead"
    assert "ahead of the worker's clock" in refused.reason


def test_no_kafka_timestamp__harms_no_neighbour() -> None:
    """Each record of a chunk has its own limit, whichever clock it is counted from."""
    late = oracle.time_text((MS + 3_600_001) * 1000)
    records = [
        json_record("a", timestamp_ms=-1, event_time=oracle.time_text(MS * 1000)),
        json_record("b", offset=1, timestamp_ms=MS, event_time=late),
        json_record("c", offset=2, timestamp_ms=MS + 1, event_time=late),
    ]
    chunk = decode.decode_chunk(list(map(source_record, records)), 0, 3600, clock=lambda: MS / 1000)
    assert list(chunk.latest.by_device) == ["a", "c"]
    assert [record.offset for record, _ in chunk.bad] == [1]


def test_tombstone_without_kafka_timestamp__is_bad() -> None:
    (kept, ((_, refused),)) = decoded_at(record_of(None, timestamp_ms=-1), MS)
    assert not kept
    assert refused.kind == "bad_kafka_timestamp"
    assert "-1" in refused.reason


@pytest.mark.parametrize("timestamp_ms", [0, MS // 1000, MS - 366 * 86_400_000, -2, -(2**63)])
def test_kafka_timestamp_far_off__is_blamed_and_not_the_device(timestamp_ms: int) -> None:
    ((_, refused),) = decoded_at(
        json_record("d", timestamp_ms=timestamp_ms, event_time=oracle.time_text(MS * 1000)), MS
    )[1]
    assert refused.kind == "bad_kafka_timestamp"
    assert refused.reason.startswith(f"Kafka timestamp: {timestamp_ms} ms is ")
    assert "device" not in refused.reason


def test_kafka_timestamp_within_a_year__leaves_the_blame_to_the_device() -> None:
    """As in a replay of last month's records."""
    ((_, refused),) = decoded_at(
        json_record("d", timestamp_ms=MS - 300 * 86_400_000, event_time=oracle.time_text(MS * 1000)), MS
    )[1]
    assert refused.kind == "clock_ahead"
    assert refused.reason.endswith("is the device's clock wrong?")
