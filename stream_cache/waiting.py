"""Says in the log what is waited for, in the contract's rhythm (section 5): enough to be seen, never a flood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_OFTEN_S, _OFTEN_FOR_S, _SELDOM_S = 10.0, 60.0, 60.0


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
