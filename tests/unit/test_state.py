"""The state guard: what a worker waits for before it begins."""

import asyncio

import pytest

from stream_cache import state
from stream_cache.errors import StoreUnavailable
from stream_cache.settings import Settings
from stream_cache.state import COMPLETE, StateGuard
from tests.waiting import wait_until_async


class FakeStore:
    """Redis; `text` is what it holds of the state, an exception where it doesn't answer."""

    def __init__(self, text: str | StoreUnavailable | None) -> None:
        self.text = text

    async def get_state(self) -> str | None:
        if isinstance(self.text, StoreUnavailable):
            raise self.text
        return self.text

    async def set_state(self, text: str) -> None:
        self.text = text


class FakeMembership:
    """A member of its group, which has read something, or nothing yet."""

    state, topic = "ok", "iot_validated_data"

    def __init__(self, *, is_at_beginning: bool) -> None:
        self.is_at_beginning = is_at_beginning

    async def is_group_at_beginning(self) -> bool:
        return self.is_at_beginning


def guard_of(store: FakeStore, *, is_at_beginning: bool) -> StateGuard:
    return StateGuard(store, FakeMembership(is_at_beginning=is_at_beginning), Settings())  # type: ignore[arg-type]


async def test_start_without_redis__waits_and_says_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_CHECK_EVERY_S", 0.001)
    store = FakeStore(StoreUnavailable("Redis: gone"))
    guard = guard_of(store, is_at_beginning=True)
    async with guard:
        await wait_until_async(lambda: guard.is_waiting_for_redis, 10, "the first try", interval_s=0.001)
        assert not guard._has_decided.is_set()
        store.text = None
        await asyncio.wait_for(guard.wait_until_decided(), 10)
        assert not guard.is_waiting_for_redis
    assert store.text == COMPLETE


@pytest.mark.parametrize("is_at_beginning", [True, False])
async def test_state_that_redis_does_not_hold__is_lost_unless_nothing_was_read_yet(*, is_at_beginning: bool) -> None:
    """Readings may be there all the same: another worker wrote them after the loss."""
    store = FakeStore(None)
    guard = guard_of(store, is_at_beginning=is_at_beginning)
    async with guard:
        await asyncio.wait_for(guard.wait_until_decided(), 10)
        assert (guard.finding == COMPLETE) == is_at_beginning
        assert (store.text == COMPLETE) == is_at_beginning
