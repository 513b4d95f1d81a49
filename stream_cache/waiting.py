"""Waiting: what the log says of it, in the contract's rhythm (section 5: seen, never a flood), and an end to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

_OFTEN_S, _OFTEN_FOR_S, _SELDOM_S = 10.0, 60.0, 60.0
_CANCEL_AGAIN_S = 0.05


class WaitingLog:
    """One line at once, every 10 s in the first minute, then once a minute; one more when the wait is over.

    Call `wait` at every try, however often: it decides which of the calls becomes a line. One object for each thing
    that may be away.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._began_at: float | None = None
        self._said_at = 0.0

    @property
    def waited_s(self) -> float:
        """How long it has been waited for; 0 when nothing is waited for."""
        return 0.0 if self._began_at is None else self._clock() - self._began_at

    def wait(self, text: str) -> None:
        """Say that this is waited for, if a line is due. The text names what, where, and the setting."""
        now = self._clock()
        if self._began_at is None:
            self._began_at = now
        elif now - self._said_at < (_OFTEN_S if now - self._began_at <= _OFTEN_FOR_S else _SELDOM_S):
            return
        self._said_at = now
        waited_s = now - self._began_at
        self._logger.warning("%s", f"{text} (for {waited_s:.0f} s now)" if waited_s >= 1 else text)

    def end(self, text: str) -> None:
        """Say that the wait is over, if there was one."""
        if self._began_at is not None:
            self._logger.info("%s", f"{text}, after {self.waited_s:.0f} s")
            self._began_at = None


async def ends_within(limit_s: float | None, work: Coroutine[Any, Any, None]) -> bool:
    """Run something that may wait for what is away, and give it up after a time. Returns: whether it ended by itself.

    What is given up is cancelled, and not waited for: libraries swallow cancellations. Nor does one that came from
    inside get out. Raises: what the work raised.
    """
    task = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=limit_s)
    if not task.done():
        task.cancel()
        return False
    with suppress(asyncio.CancelledError):
        task.result()
    return True


async def end_other_tasks(limit_s: float) -> None:
    """Cancel whatever else runs in this loop, for so long at most.

    Again and again: libraries swallow a cancellation. A cancelled `close` of aiokafka's coordinator goes on, and waits
    for Kafka to answer that the member has left.
    """
    deadline_s = time.monotonic() + limit_s
    while (tasks := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < deadline_s:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
