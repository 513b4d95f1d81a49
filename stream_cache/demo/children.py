"""Programs that the demo starts, and that never outlive it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stream_cache.demo import DemoFailed, die_with_parent

_TAIL_LINE_COUNT = 30
_POLL_S = 0.05


class Child:
    """A program, its output in `{folder}/{name}.log`.

    It runs where the demo does, so that it imports the same modules, and in a session of its own: a Ctrl-C in the
    terminal reaches only the demo, which stops its children in their order.
    Start it in the main thread: Linux kills it when the thread that started it ends.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        launcher = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the commands are ours
                [*launcher, *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises: DemoFailed with the end of its log when it has ended."""
        exit_code = self._process.poll()
        if exit_code is not None:
            raise DemoFailed(f"{self.name} has ended with exit code {exit_code}; its log ends with\n{self.log_tail()}")

    async def watch(self) -> None:
        """Run until it ends. Raises: as `check` does."""
        while True:
            self.check()
            await asyncio.sleep(_POLL_S)

    async def wait_until(self, is_ready: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Poll until it is ready. Raises: DemoFailed when it ends, or isn't ready in time."""
        deadline_s = time.monotonic() + timeout_s
        while not await is_ready():
            self.check()
            if time.monotonic() > deadline_s:
                raise DemoFailed(
                    f"{self.name} is not ready after {timeout_s:.0f} s; its log ends with\n{self.log_tail()}"
                )
            await asyncio.sleep(_POLL_S)

    async def stop(self, timeout_s: float) -> None:
        """Send SIGTERM, and SIGKILL when that has not ended it in time."""
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, timeout_s)
        finally:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines of what it has written."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINE_COUNT:])
