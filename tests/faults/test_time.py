"""Clocks that are wrong: the worker's by an hour, devices' by years."""

import itertools
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import oracle, readings
from tests.faults.scene import Scene
from tests.harness import Worker
from tests.services.machine import Tool, ensure

FAKETIME = Tool(
    program="faketime",
    package="faketime",
    version_argument="--version",
    version_pattern=r"Version (\d+)",
    min_version=0,
)


@pytest.mark.parametrize("off_by", ["+1h", "-1h"])
def test_workers_clock_is_off__changes_nothing(scene: Scene, off_by: str) -> None:
    """Times come from Kafka and Redis only. The other worker's clock is right: both agree on who is newer."""
    ensure(FAKETIME)  # its library alone: the program would stand between us and the worker's exit code
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    scene.start_workers(LD_PRELOAD=str(library), FAKETIME=off_by, FAKETIME_DONT_FAKE_MONOTONIC="1")
    scene.start_workers()
    with scene.fed():
        scene.wait_committed(60_000)
    scene.assert_nothing_lost()
    first, second = (datetime.fromisoformat(logged_at(worker)) for worker in scene.workers)
    assert abs(first - second) > timedelta(minutes=50), "the clock was not off"
    assert [worker.terminate() for worker in scene.workers] == [0, 0]


def logged_at(worker: Worker) -> str:
    """Return the time that the worker's first log line bears."""
    found = re.search(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", worker.log_text(), re.MULTILINE)
    assert found
    return found[1]


def at(draft: readings.Draft, moment: datetime) -> readings.Draft:
    """Return it with another event time."""
    fields = {**json.loads(draft.value or b""), "timestamp": moment.replace(tzinfo=None).isoformat()}
    return draft._replace(value=json.dumps(fields).encode())


def test_devices_clocks_are_years_off(scene: Scene) -> None:
    """One years behind is kept with the time that it says; one years ahead is refused, and freezes nothing."""
    now = datetime.now(UTC)
    drafts = list(itertools.islice(scene.drafts(1, devices=300), 9_000))
    for number, draft in enumerate(drafts):
        match number % 3:
            case 0:
                drafts[number] = at(draft, now - timedelta(days=3650, seconds=-number))
            case 1 if number % 2:
                drafts[number] = at(draft, now + timedelta(days=3650, seconds=number))
    scene.start_workers(2)
    scene.ledger.produce(drafts)
    scene.assert_nothing_lost()
    assert len(scene.ledger.bad()) == 1_500
    assert len(scene.ledger.state().hashes) == 300


def test_records_older_than_the_ttl_and_from_the_future(scene: Scene) -> None:
    """The producer's clock is wrong: what has expired by it is not written, what lies ahead expires later."""
    hour_ms, now_ms = 3_600_000, int(time.time() * 1000)
    drafts = list(itertools.islice(scene.drafts(1, devices=300), 3_000))
    by_device = {draft.key: number for number, draft in enumerate(drafts)}
    shifts_ms = (0, -30 * hour_ms, hour_ms // 2)  # a broker refuses what lies more than an hour ahead
    shifted = []
    for draft in drafts:
        shift_ms = shifts_ms[by_device[draft.key] % 3]
        moment = datetime.now(UTC) + timedelta(milliseconds=shift_ms)
        shifted.append(at(draft, moment)._replace(timestamp_ms=draft.timestamp_ms + shift_ms))
    scene.start_workers()
    scene.ledger.produce(shifted)
    scene.wait_caught_up()
    expected = scene.ledger.state(now_ms=now_ms)
    with scene.database.connect() as client:
        oracle.assert_equal_to_redis(expected, client)
    assert 0 < len(expected.hashes) < 300
