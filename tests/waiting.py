"""Wait for a condition, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str, *, interval_s: float = 0.05) -> T:
    """Poll until `predicate` returns something true, and return that.

    Raises: TimeoutError naming `what` and the last value; what `predicate` raises comes through at once.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() >= deadline_s:
            raise _timed_out(timeout_s, what, value)
        time.sleep(interval_s)
    return value


@overload
async def wait_until_async(
    predicate: Callable[[], Awaitable[T]], timeout_s: float, what: str, *, interval_s: float = ...
) -> T: ...
@overload
async def wait_until_async(
    predicate: Callable[[], T], timeout_s: float, what: str, *, interval_s: float = ...
) -> T: ...
async def wait_until_async(
    predicate: Callable[[], T | Awaitable[T]], timeout_s: float, what: str, *, interval_s: float = 0.05
) -> T:
    """Do as `wait_until` does without blocking the event loop; `predicate` may be a coroutine function."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise _timed_out(timeout_s, what, value)
        await asyncio.sleep(interval_s)


def _timed_out(timeout_s: float, what: str, last_value: object) -> TimeoutError:
    return TimeoutError(f"waited {timeout_s:g} s for {what}; the last value was {last_value!r}")
