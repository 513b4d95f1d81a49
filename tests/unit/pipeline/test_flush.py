"""The flusher: when it flushes, that it never gives up or loses, and that it acks last (sections 2, 3 and 5)."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from stream_cache.errors import BadRecord, StoreUnavailable
from stream_cache.metrics import Metrics
from stream_cache.pipeline import flush
from stream_cache.pipeline.flush import Flusher
from stream_cache.pipeline.sink import PutResult
from stream_cache.readings.reading import Latest, Reading, Record
from tests.fakes import reading
from tests.waiting import wait_until_async

LONG_S = 60.0


class FakeWindow:
    """A window without Faust's table."""

    def __init__(self) -> None:
        self.latest = Latest()

    def take(self) -> Latest:
        taken, self.latest = self.latest, Latest()
        return taken

    def device_count(self) -> int:
        return len(self.latest.by_device)


class FakeSink:
    """Notes what it gets; fails, waits and refuses when told to."""

    def __init__(self) -> None:
        self.puts: list[list[Reading]] = []
        self.put_at_s: list[float] = []
        self.failures_left = 0
        self.refused: list[tuple[Reading, BadRecord]] = []
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def put_latest(self, events: Sequence[Reading]) -> PutResult:
        self.puts.append(list(events))
        self.put_at_s.append(time.time())
        await self.is_open.wait()
        if self.failures_left:
            self.failures_left -= 1
            raise StoreUnavailable("Redis: gone")
        return PutResult(len(events), 0, 0, self.refused)


class Bench:
    """A flusher between fakes."""

    def __init__(self, interval_s: float, max_unacked: int) -> None:
        self.window, self.sink, self.metrics = FakeWindow(), FakeSink(), Metrics()
        self.told: list[tuple[Record, BadRecord]] = []
        self.telling: list[asyncio.Future[None]] = []
        self.acked: list[int] = []
        self.flusher = Flusher(
            self.window,  # type: ignore[arg-type]
            self.sink,
            self._tell,
            self.metrics,
            interval_s=interval_s,
            max_unacked=max_unacked,
        )

    def _tell(self, refused: Sequence[tuple[Record, BadRecord]]) -> asyncio.Future[None]:
        self.told += refused
        self.telling.append(asyncio.get_running_loop().create_future())
        return self.telling[-1]

    def take(
        self,
        number: int,
        *,
        is_caught_up: bool = True,
        told: asyncio.Future[None] | None = None,
        count: int = 1,
        size_bytes: int = 0,
        has_reading: bool = True,
    ) -> None:
        """Take a chunk; the ack of the n-th is seen as n."""
        if has_reading:
            self.window.latest.merge([reading(f"d{number}", offset=number)])
        self.flusher.take(
            lambda: self.acked.append(number), count, told, is_caught_up=is_caught_up, size_bytes=size_bytes
        )

    def flushes_count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("stream_cache_flushes_total", {"result": result}) or 0

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        await wait_until_async(condition, 10, what, interval_s=0.002)


@asynccontextmanager
async def running(interval_s: float = LONG_S, max_unacked: int = 1000) -> AsyncIterator[Bench]:
    bench = Bench(interval_s, max_unacked)
    async with bench.flusher:
        yield bench


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no window end: the wall clock stands at a window's begin."""
    monkeypatch.setattr(flush, "time", SimpleNamespace(time=lambda: 0.0, monotonic=time.monotonic))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "_RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(flush, "_RETRY_LONGEST_S", 0.002)


async def let_others_run() -> None:
    """Give every task that could run its turn, many times, and the shortest pause its end."""
    for _ in range(50):
        await asyncio.sleep(0.001)


# ------------------------------------------------------------------------------------------------------- when


@pytest.mark.usefixtures("stopped_clock")
async def test_caught_up__flushes_at_once_and_acks() -> None:
    async with running() as bench:
        bench.take(1)
        await bench.until(lambda: bench.acked == [1], "the ack")
    (readings,) = bench.sink.puts
    assert [r.device_id for r in readings] == ["d1"]
    assert bench.flusher.unacked_count == 0


@pytest.mark.usefixtures("stopped_clock")
async def test_behind__waits_for_the_windows_end_or_for_having_caught_up() -> None:
    async with running() as bench:
        bench.take(1, is_caught_up=False)
        bench.take(2, is_caught_up=False)
        await let_others_run()
        assert bench.sink.puts == []
        bench.take(3)
        await bench.until(lambda: bench.acked == [1, 2, 3], "the acks")
    assert len(bench.sink.puts) == 1


async def test_behind__flushes_at_the_windows_end() -> None:
    interval_s = 0.3
    async with running(interval_s) as bench:
        for number in range(3):
            window_ends_s = (time.time() // interval_s + 1) * interval_s
            bench.take(number, is_caught_up=False)
            await bench.until(partial(bench.acked.__contains__, number), "the ack")
            assert bench.sink.put_at_s[number] >= window_ends_s - 0.02  # two clocks: the loop's, and the wall's


@pytest.mark.usefixtures("stopped_clock")
async def test_flush__gathers_what_comes_while_another_runs() -> None:
    async with running() as bench:
        bench.sink.is_open.clear()
        bench.take(0)
        await bench.until(lambda: bench.sink.puts, "the first flush")
        for number in range(1, 20):
            bench.take(number)
        await let_others_run()
        assert bench.acked == []
        bench.sink.is_open.set()
        await bench.until(lambda: bench.acked == list(range(20)), "the acks, in order")
    assert [len(readings) for readings in bench.sink.puts] == [1, 19]


@pytest.mark.usefixtures("stopped_clock")
async def test_chunk_without_readings__is_acked_without_a_put() -> None:
    async with running() as bench:
        bench.take(1, has_reading=False, count=0)
        await bench.until(lambda: bench.acked == [1], "the ack")
    assert bench.sink.puts == []


# ----------------------------------------------------------------------------------------------------- without loss


@pytest.mark.usefixtures("stopped_clock", "quick_retries")
async def test_unavailable_sink__is_tried_again_with_the_same_and_nothing_is_acked_until_it_takes_them() -> None:
    async with running() as bench:
        bench.sink.failures_left = 10**9
        bench.take(1)
        bench.take(2, is_caught_up=False)
        await bench.until(lambda: len(bench.sink.puts) > 5, "some tries")
        bench.take(3)
        await let_others_run()
        assert bench.acked == []
        assert bench.flusher.unacked_count == 3
        assert bench.flusher.is_putting
        bench.sink.failures_left = 0
        await bench.until(lambda: bench.acked == [1, 2, 3], "the acks")
    *tries, last = [[r.device_id for r in readings] for readings in bench.sink.puts]
    assert tries == [["d1", "d2"]] * len(tries)
    assert last == ["d3"]
    assert (bench.flushes_count("failed"), bench.flushes_count("ok")) == (len(tries) - 1, 2)


# ---------------------------------------------------------------------------------------------------------- telling


@pytest.mark.usefixtures("stopped_clock")
async def test_bad_records__hold_the_ack_back_until_they_are_told() -> None:
    async with running() as bench:
        told = asyncio.get_running_loop().create_future()
        bench.take(1, told=told)
        bench.take(2)
        await bench.until(lambda: bench.acked == [2], "the ack of the chunk without bad records")
        assert bench.flusher.unacked_count == 1
        told.set_result(None)
        await bench.until(lambda: bench.acked == [2, 1], "the ack")
    assert bench.flusher.unacked_count == 0


@pytest.mark.usefixtures("stopped_clock")
async def test_bad_records__told_before_the_put_do_not_ack_before_it() -> None:
    async with running() as bench:
        bench.sink.is_open.clear()
        told = asyncio.get_running_loop().create_future()
        told.set_result(None)
        bench.take(1, told=told)
        await bench.until(lambda: bench.sink.puts, "the put")
        await let_others_run()
        assert bench.acked == []
        bench.sink.is_open.set()
        await bench.until(lambda: bench.acked == [1], "the ack")


@pytest.mark.usefixtures("stopped_clock")
async def test_refused_reading__is_told_before_its_chunk_is_acked() -> None:
    async with running() as bench:
        odd = reading("odd", offset=9)
        bad = BadRecord("wrong_redis_type", "device_id: no hash")
        bench.sink.refused = [(odd, bad)]
        bench.take(1)
        await bench.until(lambda: bench.telling, "the telling")
        await let_others_run()
        assert bench.told == [(odd.record, bad)]
        assert bench.acked == []
        bench.telling[0].set_result(None)
        await bench.until(lambda: bench.acked == [1], "the ack")


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("is_first", [True, False])
async def test_cancelled_telling__never_acks_though_the_other_one_succeeds(*, is_first: bool) -> None:
    """A chunk may wait for two: its bad records, and those of its readings that Redis refused."""
    async with running() as bench:
        bench.sink.refused = [(reading(), BadRecord("wrong_redis_type", "no hash"))]
        told = asyncio.get_running_loop().create_future()
        bench.take(1, told=told)
        await bench.until(lambda: bench.telling, "the second telling")
        await let_others_run()
        cancelled, done = (told, bench.telling[0]) if is_first else (bench.telling[0], told)
        cancelled.cancel()
        await let_others_run()
        done.set_result(None)
        await let_others_run()
        assert bench.acked == []


@pytest.mark.usefixtures("stopped_clock")
async def test_failed_publish__never_acks_and_ends_the_worker() -> None:
    """Nobody publishes those bad records any more: to go on would lose them, or wait for ever in silence."""
    async with running() as bench:
        published = asyncio.get_running_loop().create_future()
        bench.take(1, told=published)
        bench.take(2)
        await bench.until(lambda: bench.acked == [2], "the other ack")
        published.set_exception(OSError("gone"))
        await bench.until(lambda: bench.flusher.crashed, "the crash")
        assert bench.acked == [2]


# ------------------------------------------------------------------------------------------------------------- room


async def check_room_comes_only_by(event: Callable[[], object], bench: Bench) -> None:
    """Wait for room while what is taken leaves none: a flush begins at once, and the wait ends only after the event."""
    waiting = asyncio.create_task(bench.flusher.wait_for_room())
    await bench.until(lambda: bench.sink.puts, "a flush that is not put off to the window's end")
    await let_others_run()
    assert not waiting.done()
    event()
    await asyncio.wait_for(waiting, 10)


@pytest.mark.usefixtures("stopped_clock", "quick_retries")
async def test_wait_for_room__bounds_what_is_taken_and_lets_go() -> None:
    async with running(max_unacked=10) as bench:
        bench.sink.is_open.clear()
        await bench.flusher.wait_for_room()
        bench.take(1, count=9, is_caught_up=False)
        await bench.flusher.wait_for_room()
        bench.take(2, count=5, is_caught_up=False)
        await check_room_comes_only_by(bench.sink.is_open.set, bench)
        assert bench.acked == [1, 2]


@pytest.mark.usefixtures("stopped_clock")
async def test_wait_for_room__bounds_the_bytes_of_few_large_records_too() -> None:
    async with running(max_unacked=1000) as bench:
        bench.sink.is_open.clear()
        bench.take(1, size_bytes=flush._MAX_UNACKED_BYTES - 1, is_caught_up=False)
        await asyncio.wait_for(bench.flusher.wait_for_room(), 10)
        bench.take(2, size_bytes=1, is_caught_up=False)
        await check_room_comes_only_by(bench.sink.is_open.set, bench)


@pytest.mark.usefixtures("stopped_clock")
async def test_wait_for_room__waits_for_bad_records_that_are_not_told() -> None:
    async with running(max_unacked=1) as bench:
        told = asyncio.get_running_loop().create_future()
        bench.take(1, told=told)
        await check_room_comes_only_by(lambda: told.set_result(None), bench)


# ------------------------------------------------------------------------------------------------------------ drain


@pytest.mark.usefixtures("stopped_clock")
async def test_drain__waits_for_a_flush_that_runs_and_for_what_came_meanwhile() -> None:
    async with running() as bench:
        bench.sink.is_open.clear()
        bench.take(1)
        await bench.until(lambda: bench.sink.puts, "the flush")
        bench.take(2, is_caught_up=False)
        draining = asyncio.create_task(bench.flusher.drain(10))
        await let_others_run()
        assert not draining.done()
        bench.sink.is_open.set()
        assert await draining
        assert bench.acked == [1, 2]


@pytest.mark.usefixtures("stopped_clock")
async def test_drain__flushes_at_once_what_found_room_only_by_its_flush() -> None:
    async with running(max_unacked=1) as bench:
        bench.take(1, is_caught_up=False)

        async def take_when_there_is_room() -> None:
            await bench.flusher.wait_for_room()
            bench.take(2, is_caught_up=False)

        taking = asyncio.create_task(take_when_there_is_room())
        await asyncio.sleep(0)  # it waits first, so it is woken first
        assert await bench.flusher.drain(5)
        await taking
        assert bench.acked == [1, 2]


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("is_sink_away", [True, False])
async def test_drain__gives_up_after_its_time_and_acks_nothing(
    caplog: pytest.LogCaptureFixture, *, is_sink_away: bool
) -> None:
    async with running() as bench:
        if is_sink_away:
            bench.sink.is_open.clear()
        told = asyncio.get_running_loop().create_future()
        bench.take(1, told=told, count=7)
        assert not await asyncio.wait_for(bench.flusher.drain(0.1), 5)
        assert bench.acked == []
        assert "7 records could not be flushed" in caplog.text
        bench.sink.is_open.set()
        told.set_result(None)
        await bench.until(lambda: bench.acked == [1], "the ack, later")


@pytest.mark.usefixtures("stopped_clock")
async def test_drain__flushes_before_the_windows_end_and_the_flusher_works_on() -> None:
    async with running() as bench:
        assert await bench.flusher.drain(10), "of nothing: done at once"
        assert bench.sink.puts == []
        for number in range(3):
            bench.take(number, is_caught_up=False)
            assert await bench.flusher.drain(10)
            assert bench.acked == list(range(number + 1))
