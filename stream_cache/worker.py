"""The process: `faust worker` with our log level, and an end that comes in time."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from typing import Any

import faust

#: The contract gives a shutdown 10 s. What has not ended by then hangs in something that is away.
_EXIT_WITHIN_S = 9.5


class Worker(faust.Worker):
    """Faust's worker, for our app.

    `LOG_LEVEL` decides, whatever `-l` says. A shutdown that hangs (in a broker that doesn't answer, say) is cut off
    with exit code 1: nothing is committed that isn't flushed, whatever moment a process ends at.
    """

    def __init__(self, app: faust.App, *services: Any, **kwargs: Any) -> None:
        kwargs["loglevel"] = app.settings.log_level  # type: ignore[attr-defined]  # our app has them
        super().__init__(app, *services, **kwargs)

    async def on_execute(self) -> None:
        """Tune the interpreter, once everything is imported."""
        await super().on_execute()
        # Readings are freed by their reference counts. Looking for cycles among them after every 700 allocations took
        # a third of the main thread (tests/bench, 10,000 devices); the modules need never be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        # The consumer's thread decodes without a pause, and at the default of 5 ms a lookup waits for it that long at
        # each of its steps: the median while a backlog drains was 12 ms, and is 4 ms, at the same rate.
        sys.setswitchinterval(0.001)

    async def stop(self) -> None:
        """Stop, by a signal or after a crash."""
        deadline = threading.Timer(_EXIT_WITHIN_S, self._give_up)
        deadline.daemon = True
        deadline.start()
        await super().stop()

    async def _sentinel_task(self) -> None:
        """Let what was cancelled come to its end, before the loop is closed; mode sleeps for a second."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=1.0)

    def _give_up(self) -> None:
        self.log.critical("the shutdown did not end within %.1f s; exiting without it", _EXIT_WITHIN_S)
        os._exit(1)
