"""The window: latest reading per device, whatever the order and the chunks, in a Faust table without a changelog."""

from typing import Any

import faust
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_cache.app import create_app
from stream_cache.kafka.tables import ChangelogFreeTable, ChangelogFreeTableManager, latest_by_partition
from stream_cache.pipeline.window import Window
from stream_cache.readings.reading import Latest, Reading
from tests.fakes import NOW_MS, reading, tombstone

Event = tuple[int, bool, int, int, int]
"""Device, whether a tombstone, event time, offset, partition."""


def memory_app() -> faust.App:
    return faust.App(
        "test_window",
        broker="kafka://127.0.0.1:1",
        store="memory://",
        Table=ChangelogFreeTable,
        TableManager=ChangelogFreeTableManager,
    )


def to_reading(event: Event) -> Reading:
    device, is_tombstone, second, offset, partition = event
    make = tombstone if is_tombstone else reading
    return make(f"d{device}", offset=offset, partition=partition, timestamp_ms=NOW_MS + second * 1000)


def order(item: Reading) -> tuple[Any, int, int]:
    """The contract's order, in its own words: event time, then Kafka offset, then partition."""
    return item.event_time, item.raw.offset, item.partition


def as_told(latest: Latest) -> dict[str, tuple[tuple[Any, int, int], int]]:
    """Return the place in the order of each device's event, and when the device was last seen."""
    return {device_id: (order(event), event.seen_ms) for device_id, event in latest.by_device.items()}


def expected(items: list[Reading]) -> dict[str, tuple[tuple[Any, int, int], int]]:
    of_device: dict[str, list[Reading]] = {}
    for item in items:
        of_device.setdefault(item.device_id, []).append(item)
    return {
        device_id: (
            max(map(order, some)),
            max((item.raw.timestamp for item in some if not item.is_tombstone), default=0),
        )
        for device_id, some in of_device.items()
    }


def latest(*items: Reading) -> Latest:
    """Give what a chunk says."""
    chunk = Latest()
    chunk.merge(items)
    return chunk


def add(window: Window, chunk: list[Reading]) -> None:
    """Add a chunk, whose records come from one partition; here, for the orders' sake, it may be any."""
    window.add(chunk[0].partition, latest(*chunk))


@pytest.fixture
def window() -> Window:
    return Window(latest_by_partition(memory_app(), 0.5))


_EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 3), st.integers(0, 4), st.integers(0, 2)),
    min_size=1,
    max_size=25,
    unique_by=lambda event: event[3:],  # a record has its place for itself
)


@given(_EVENTS, st.sampled_from([0.01, 0.5, 0.999, 60.0]), st.data())
@settings(deadline=None)
def test_any_order_and_chunks__keep_the_latest_of_each_device(
    events: list[Event], size_s: float, data: st.DataObject
) -> None:
    """With duplicates, with a device in two partitions, and with windows of any size that end in between."""
    items = [to_reading(event) for event in events]
    arriving = data.draw(st.permutations(items + data.draw(st.lists(st.sampled_from(items), max_size=5))))
    now_s = 1_795_342_535.25
    window = Window(latest_by_partition(memory_app(), size_s, clock=lambda: now_s))
    while arriving:
        count = data.draw(st.integers(1, len(arriving)))
        now_s += data.draw(st.sampled_from([0.0, 0.1, 0.5, 7.0]))
        add(window, arriving[:count])
        arriving = arriving[count:]
    wanted = expected(items)
    assert window.device_count() >= len(wanted)
    assert as_told(window.take()) == wanted


def test_take__empties_and_what_was_taken_is_not_touched_by_what_comes_later(window: Window) -> None:
    window.add(0, latest(reading("a", offset=1), tombstone("b")))
    window.add(1, latest(reading("c", partition=1)))
    assert window.device_count() == 3
    taken = window.take()
    assert set(taken.by_device) == {"a", "b", "c"}
    assert window.device_count() == 0
    assert window.take() == Latest()
    window.add(0, latest(reading("a", offset=2)))
    assert taken.by_device["a"].raw.offset == 1
    assert window.take().by_device["a"].raw.offset == 2


async def test_unflushed_windows__outlive_any_outage() -> None:
    """Windows that ended long ago wait for their flush, not for an expiry."""
    now_s = 1000.0
    app = memory_app()
    window = Window(latest_by_partition(app, 0.5, clock=lambda: now_s))
    table: Any = app.tables["latest"]
    for number in range(20):
        window.add(0, latest(reading(f"d{number}", offset=number)))
        now_s += 3600
        await table._del_old_keys()  # what Faust does every 30 s
    assert len(window.take().by_device) == 20


def test_flushed_windows__leave_nothing_behind() -> None:
    """Faust keeps an entry per write until the window expires; ours never do."""
    now_s = 1000.0
    app = memory_app()
    window = Window(latest_by_partition(app, 0.5, clock=lambda: now_s))
    for number in range(50):
        window.add(number % 8, latest(reading()))
        window.take()
        now_s += 0.5
    table: Any = app.tables["latest"]
    held = [table.data, *table._partition_timestamps.values(), *table._partition_timestamp_keys.values()]
    assert sum(map(len, held)) == 0


# ------------------------------------------------------------------------------------------- in Faust


async def test_table__sends_no_changelog() -> None:
    app = memory_app()
    window = Window(latest_by_partition(app, 0.5))
    table: Any = app.tables["latest"]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a changelog record")

    table._send_changelog = table.send_changelog = refuse
    window.add(0, latest(reading()))
    window.take()


async def test_service__subscribes_to_the_source_topic_only() -> None:
    app = create_app({})
    app.finalize()
    await app.agents.start()
    topics: Any = app.topics
    try:
        await topics._update_indices()
        assert set(topics._topic_name_index) == {"iot_validated_data"}
    finally:
        await app.agents.stop()


async def test_service__declares_no_topic() -> None:
    """A typing error in a topic's name must not make a new topic."""
    app = create_app({})
    assert app.conf.topic_allow_declare is False
    assert app.conf.topic_disable_leader is True
    table: Any = app.tables["latest"]
    assert isinstance(table, ChangelogFreeTable)
    assert app.tables.changelog_topics == set()
