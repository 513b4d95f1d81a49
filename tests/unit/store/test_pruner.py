"""The pruner: how fast it walks the index, that it never stops, and that noted deadlines cover the time between."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import stream_cache
from stream_cache.errors import StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.settings import Settings
from stream_cache.store import pruner as prune
from stream_cache.store.pruner import Pruner
from tests.waiting import wait_until_async

LONGEST_INTERVAL_S = 20.0


class FakeStore:
    """An index of so many pages; notes what is asked of it, in words."""

    def __init__(self, page_count: int = 3) -> None:
        self.page_count, self.device_count = page_count, page_count * prune._PAGE_COUNT
        self.is_walked = False
        self.due_count = 0
        self.failures_left = 0
        self.asked: list[str] = []

    async def take_prune_lease(self, _owner: str, _seconds: float) -> bool:
        self.asked.append("take lease")
        return True

    async def keep_prune_lease(self, _seconds: float) -> None:
        self.asked.append("keep lease")

    async def has_walked(self) -> bool:
        return self.is_walked

    async def note_walk(self, _seconds: float) -> None:
        self.asked.append("walked")

    async def count_devices(self) -> int:
        return self.device_count

    async def prune_expired(self, count: int) -> tuple[int, int]:
        looked_at = min(count, self.due_count)
        self.due_count -= looked_at
        return looked_at, looked_at

    async def prune(self, after: bytes, _count: int) -> tuple[int, bytes]:
        return self._go_on("page", after)

    async def heal(self, cursor: bytes, _count: int) -> tuple[int, bytes]:
        return self._go_on("devices page", cursor)

    def _go_on(self, page: str, place: bytes) -> tuple[int, bytes]:
        if self.failures_left:
            self.failures_left -= 1
            raise StoreUnavailable("Redis: gone")
        number = int(place or 0) + 1
        self.asked.append(f"{page} {number}")
        return 1, b"" if number == self.page_count else str(number).encode()


def pruner_of(store: FakeStore, metrics: Metrics | None = None, interval_s: float = LONGEST_INTERVAL_S) -> Pruner:
    return Pruner(store, metrics or Metrics(), interval_s=interval_s)  # type: ignore[arg-type]


@asynccontextmanager
async def running(pruner: Pruner) -> AsyncIterator[None]:
    await pruner.start()
    try:
        yield
    finally:
        await pruner.stop()


def has_asked(store: FakeStore, what: str, times: int = 1) -> Callable[[], bool]:
    return lambda: store.asked.count(what) >= times


async def test_walk__goes_through_every_page_and_keeps_the_lease_meanwhile() -> None:
    store = FakeStore(page_count=2)
    async with running(pruner_of(store)):
        await wait_until_async(has_asked(store, "walked", times=2), 10, "the walk's end")
    index = ["page 1", "keep lease", "page 2", "walked"]
    assert store.asked == ["take lease", *index, "devices page 1", "keep lease", "devices page 2", "walked"]


async def test_all_that_is_due__is_taken_out_at_once() -> None:
    store, metrics = FakeStore(page_count=1), Metrics()
    store.due_count = 3 * prune._PAGE_COUNT + 7
    async with running(pruner_of(store, metrics)):
        await wait_until_async(has_asked(store, "walked", times=2), 10, "the walk's end")
    assert store.due_count == 0
    pruned = 3 * prune._PAGE_COUNT + 7 + 2
    assert f"stream_cache_pruned_devices_total {float(pruned)}" in metrics.as_text().decode()


async def test_redis_that_is_away__is_waited_for_no_interval_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "_RETRY_S", 0.01)
    store = FakeStore()
    store.failures_left = 3
    async with running(pruner_of(store)):
        await wait_until_async(has_asked(store, "walked"), 10, "a walk after the failures")


async def test_interval__lies_between_two_walks() -> None:
    store = FakeStore(page_count=1)
    async with running(pruner_of(store, interval_s=0.01)):
        await wait_until_async(has_asked(store, "walked", times=5), 10, "five walks")


@pytest.mark.parametrize("device_count", [0, 1, 1_000, 100_000, 1_000_000, 10_000_000, 100_000_000])
async def test_walk__ends_before_a_deadline_that_nobody_noted_can_pass(device_count: int) -> None:
    """Deadlines within SOON_MS are noted when they are set or seen: each id must be looked at more often than that.

    A walk goes through `devices`, then through the index.
    """
    script = Path(stream_cache.__file__).with_name("store").joinpath("expiring.lua").read_text()
    (soon_ms,) = re.findall(r"SOON_MS = (\d+)", script)
    store = FakeStore()
    store.device_count = device_count
    walk_s = 2 * device_count / prune._PAGE_COUNT * await pruner_of(store)._pause_s()
    assert walk_s + 3 * LONGEST_INTERVAL_S < int(soon_ms) / 1000


async def test_walk__keeps_its_pace_however_long_redis_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, now_s, took_s = FakeStore(page_count=4), 0.0, iter([0.03, 0.09, 0.0, 0.0])
    pauses: list[float] = []

    async def page(after: bytes, count: int) -> tuple[int, bytes]:
        nonlocal now_s
        now_s += next(took_s)
        return await FakeStore.prune(store, after, count)

    async def pause(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        pauses.append(seconds)

    pruner = pruner_of(store)
    monkeypatch.setattr(pruner, "sleep", pause)
    monkeypatch.setattr(prune, "time", SimpleNamespace(monotonic=lambda: now_s))
    await pruner._go_through(page, prune._PAUSE_S)
    assert pauses == pytest.approx([prune._PAUSE_S - 0.03, 0.0, 3 * prune._PAUSE_S - 0.14])


@pytest.mark.parametrize("is_walked", [False, True])
async def test_walk__hurries_through_the_index_where_none_has_ended_lately(
    monkeypatch: pytest.MonkeyPatch, *, is_walked: bool
) -> None:
    """Its predecessor was killed, or Redis was away: deadlines may have passed unseen."""
    store, paces = FakeStore(), []
    store.device_count, store.is_walked = 1_000_000, is_walked
    pruner = pruner_of(store)

    async def note(_page: object, pause_s: float) -> None:
        paces.append(store.device_count / prune._PAGE_COUNT * pause_s)

    monkeypatch.setattr(pruner, "_go_through", note)
    await pruner._walk()
    index_s, devices_s = paces
    assert (index_s < 30) == (not is_walked)
    assert devices_s == store.device_count / prune._PAGE_COUNT * prune._PAUSE_S


def test_interval__may_not_be_longer_than_the_pace_allows_for() -> None:
    assert Settings.from_env({"PRUNE_INTERVAL_S": str(LONGEST_INTERVAL_S)}).redis.prune_interval_s == LONGEST_INTERVAL_S
    assert prune._LATE_AFTER_S > 2 * LONGEST_INTERVAL_S
