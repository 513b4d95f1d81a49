"""The state guard: what a worker waits for before it begins, and when a rebuild has ended."""

import asyncio

import pytest

from stream_cache.errors import KafkaUnavailable, StoreUnavailable
from stream_cache.kafka.broker_watch import Progress
from stream_cache.kafka.membership import UNKNOWN
from stream_cache.observe import completeness as state
from stream_cache.observe.completeness import COMPLETE, REBUILDING, StateGuard
from stream_cache.settings import Settings
from tests.waiting import wait_until_async

NOTHING_READ = Progress({0: 5, 1: 0}, {0: 105, 1: 0}, {0: 5})
HALF_READ = NOTHING_READ._replace(committed={0: 55})
ALL_READ = NOTHING_READ._replace(ends={0: 205, 1: 70}, committed={0: 105})


class FakeStore:
    """Redis; `text` is what it holds of the state, an exception where it doesn't answer, or takes no writes."""

    def __init__(self, text: str | StoreUnavailable | None, *, is_read_only: bool = False) -> None:
        self.text, self.is_read_only = text, is_read_only

    async def check(self) -> list[str]:
        return []

    async def get_state(self) -> str | None:
        if isinstance(self.text, StoreUnavailable):
            raise self.text
        return self.text

    async def set_state(self, text: str) -> None:
        if self.is_read_only:
            raise StoreUnavailable("READONLY You can't write against a read only replica.")
        self.text = text


class FakeKafka:
    """What the membership and the broker watch say."""

    state, topic = "ok", "iot_validated_data"

    def __init__(self, progress: Progress | KafkaUnavailable) -> None:
        self.answer = progress

    async def progress(self) -> Progress:
        if isinstance(self.answer, KafkaUnavailable):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_CHECK_EVERY_S", 0.001)


def guard_of(store: FakeStore, kafka: FakeKafka) -> StateGuard:
    return StateGuard(store, kafka, kafka, Settings())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("store", "kafka", "said"),
    [
        (FakeStore(StoreUnavailable("Redis: gone")), FakeKafka(ALL_READ), "Redis: gone"),
        (FakeStore(None, is_read_only=True), FakeKafka(NOTHING_READ), "READONLY"),
        (FakeStore(None), FakeKafka(KafkaUnavailable("no partition is known")), "no partition is known"),
    ],
    ids=["no redis", "redis takes no writes", "no partition"],
)
async def test_start__waits_for_what_is_away_and_says_so(store: FakeStore, kafka: FakeKafka, said: str) -> None:
    """No stall: a restart would not help. The log has it from the store, or from the broker watch."""
    guard = guard_of(store, kafka)
    async with guard:
        await wait_until_async(lambda: said in guard.status, 10, "it to be said", interval_s=0.001)
        assert guard.is_waiting
        assert not guard.is_initialised
        store.text, store.is_read_only, kafka.answer = COMPLETE, False, ALL_READ
        await asyncio.wait_for(guard.wait_until_initialised(), 10)
        assert not guard.is_waiting
    assert guard.status == COMPLETE


async def test_state_that_redis_does_not_hold__is_lost_where_something_was_read() -> None:
    """Readings may be there all the same: another worker wrote them after the loss."""
    store = FakeStore(None)
    guard = guard_of(store, FakeKafka(HALF_READ))
    async with guard:
        await asyncio.wait_for(guard.wait_until_initialised(), 10)
        assert "state was lost" in guard.status
    assert str(store.text).startswith("lost")


@pytest.mark.parametrize("held", [None, "lost at 2026-11-22T10:15:30.123456Z", REBUILDING])
async def test_rebuild__lasts_until_all_is_read_that_was_there(held: str | None) -> None:
    """Not until the lag is 0: on a busy topic it never is."""
    store, kafka = FakeStore(held), FakeKafka(NOTHING_READ)
    guard = guard_of(store, kafka)
    async with guard:
        await asyncio.wait_for(guard.wait_until_initialised(), 10)
        assert "100 more records" in guard.status
        kafka.answer = HALF_READ
        await wait_until_async(lambda: "50 more records" in guard.status, 10, "the rest to be said", interval_s=0.001)
        assert store.text == REBUILDING
        kafka.answer = ALL_READ
        await wait_until_async(lambda: guard.status == COMPLETE, 10, "the end", interval_s=0.001)
    assert store.text == COMPLETE


async def test_redis_that_goes_away_later__state_is_unknown() -> None:
    store = FakeStore(COMPLETE)
    guard = guard_of(store, FakeKafka(ALL_READ))
    async with guard:
        await wait_until_async(lambda: guard.status == COMPLETE, 10, "the first look", interval_s=0.001)
        store.text = StoreUnavailable("Redis: gone")
        await wait_until_async(lambda: guard.status == UNKNOWN, 10, "it to be unknown", interval_s=0.001)
        assert guard.is_initialised
