"""Which ids were put into the index a short while ago: to put them there again would cost half of a write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

#: Ids in one generation, 110 bytes each; of more than that, the others are indexed with every write.
_MOST_IDS = 250_000


class RecentIds:
    """Remembers ids for between half of a time and all of it: two generations, of which the older one is forgotten."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._half_s, self._clock = keep_s / 2, clock
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._began_at = clock()

    def __contains__(self, device_id: str) -> bool:
        return device_id in self._young or device_id in self._old

    def add(self, device_ids: Iterable[str]) -> None:
        """Remember ids."""
        if len(self._young) < _MOST_IDS:
            self._young.update(device_ids)

    def discard(self, device_ids: Iterable[str]) -> None:
        """Forget ids."""
        self._young.difference_update(device_ids)
        self._old.difference_update(device_ids)

    def age(self) -> None:
        """Forget what is old; to be called before each use."""
        passed_s = self._clock() - self._began_at
        if passed_s >= self._half_s:
            self._old = self._young if passed_s < 2 * self._half_s else set()
            self._young = set()
            self._began_at = self._clock()
