"""The simulated fleet yields what it says: what is good is taken, what is bad is refused, shares and keys are right."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from stream_cache.demo.fleet import (
    BAD_SHARE,
    LATE_S,
    LATE_SHARE,
    WITHOUT_METADATA_SHARE,
    Fleet,
    FleetRecord,
    Quality,
)
from tests.fakes import Decoded, FakeRecord, decode_all

NOW = datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC)
DEVICE_COUNT = 300
REPORT_COUNT = 10_000


def sent(fleet: Fleet, report_count: int = REPORT_COUNT) -> Iterator[tuple[datetime, FleetRecord]]:
    for number in range(report_count):
        now = NOW + timedelta(milliseconds=5 * number)
        for record in fleet.report(now):
            yield now, record


def decode(now: datetime, record: FleetRecord) -> Decoded:
    return decode_all([FakeRecord(0, 0, int(now.timestamp() * 1000), record.key, record.value)])


@pytest.fixture(scope="module")
def records() -> list[tuple[datetime, FleetRecord]]:
    return list(sent(Fleet(DEVICE_COUNT, seed=1)))


def test_report__same_seed_gives_the_same_records() -> None:
    assert list(sent(Fleet(20, seed=5), 100)) == list(sent(Fleet(20, seed=5), 100))
    assert list(sent(Fleet(20, seed=5), 100)) != list(sent(Fleet(20, seed=6), 100))


def test_report__shares_are_as_promised(records: list[tuple[datetime, FleetRecord]]) -> None:
    counts = Counter(record.quality for _, record in records)
    shares = {quality: count / len(records) for quality, count in counts.items()}
    assert shares[Quality.LATE] == pytest.approx(LATE_SHARE, rel=0.25)
    assert shares[Quality.BAD] == pytest.approx(BAD_SHARE, rel=0.3)
    assert shares[Quality.WITHOUT_METADATA] == pytest.approx(WITHOUT_METADATA_SHARE, rel=0.25)


def test_report__decoder_takes_the_good_and_refuses_the_bad(records: list[tuple[datetime, FleetRecord]]) -> None:
    reasons = set()
    for now, record in records:
        chunk = decode(now, record)
        assert not chunk.tombstones
        if record.quality is Quality.BAD:
            ((_, bad),) = chunk.bad
            reasons.add(bad.reason)
            assert not chunk.readings
        elif record.quality is Quality.WITHOUT_METADATA:
            assert chunk.without_metadata_count == 1
        else:
            (reading,) = chunk.readings
            assert reading.device_id == record.device_id
            assert reading.event_time == record.event_time.replace(tzinfo=None)
    assert len(reasons) > 5, reasons


def test_report__keyed_by_device_and_every_device_reports(records: list[tuple[datetime, FleetRecord]]) -> None:
    assert {record.key.decode() for _, record in records} == set(Fleet(DEVICE_COUNT, seed=1).device_ids)
    assert all(record.key == record.device_id.encode() for _, record in records)


def test_report__late_ones_are_late_and_the_others_are_not(records: list[tuple[datetime, FleetRecord]]) -> None:
    second = timedelta(seconds=1)  # some devices write whole seconds
    for now, record in records:
        behind = now - record.event_time
        if record.quality is Quality.LATE:
            assert timedelta(seconds=LATE_S[0]) <= behind <= timedelta(seconds=LATE_S[1]) + second
        elif record.quality is Quality.GOOD:
            assert timedelta() <= behind < second


def test_report__news_is_newer_than_all_before_of_the_device(records: list[tuple[datetime, FleetRecord]]) -> None:
    """What the demo measures freshness by: no reading but this one, or a later one, can make Redis show its time."""
    latest: dict[str, datetime] = {}
    news_count = 0
    for _, record in records:
        if record.is_news:
            news_count += 1
            assert record.quality is Quality.GOOD
            assert record.event_time > latest.get(record.device_id, datetime.min.replace(tzinfo=UTC))
        if record.quality in {Quality.GOOD, Quality.LATE}:
            latest[record.device_id] = max(record.event_time, latest.get(record.device_id, record.event_time))
    assert news_count > REPORT_COUNT / 2


def test_report__devices_report_several_datatypes_in_one_request(records: list[tuple[datetime, FleetRecord]]) -> None:
    names: dict[str, set[str | None]] = {}
    for now, record in records:
        for reading in decode(now, record).readings:
            assert reading.metadata is not None
            names.setdefault(reading.device_id, set()).add(str(reading.metadata.datatype_name))
    assert all(len(of_device) > 1 for of_device in names.values())
    assert Counter(len(Fleet(1, seed).report(NOW)) for seed in range(50)).keys() == {1, 2, 3}


@pytest.mark.parametrize("seed", range(50))
def test_report__first_of_the_examples_is_faultless(seed: int) -> None:
    """The demo shows these devices, so they have to be there at once."""
    fleet = Fleet(100, seed)
    reports = [fleet.report(NOW) for _ in range(4)]
    assert [report[0].device_id for report in reports] == fleet.device_ids[:4]
    assert all(record.quality is Quality.GOOD for report in reports for record in report)


@pytest.mark.parametrize("device_count", [1, 2, 4, 5, 1000])
def test_device_ids__as_many_as_asked_and_all_different(device_count: int) -> None:
    assert len(set(Fleet(device_count, seed=1).device_ids)) == device_count


def test_device_ids__some_are_odd() -> None:
    ids = Fleet(1000, seed=1).device_ids
    assert ids[:4] == ["greenhouse-07", "meter/4:B", "buoy-é-12", "dev 42 {x}"]
    for odd in ("/", " ", "{", "%", "é"):
        assert sum(odd in device_id for device_id in ids) > 2, odd
