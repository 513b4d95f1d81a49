"""A load on the store while its Redis is in trouble, and what became of it.

The oracle is the ordering rule: a hash must hold the latest event of all that was put of its device. Every device has
one sequence of readings; some come late, some windows are put again, as a replay would.
"""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from stream_cache.errors import StoreUnavailable
from stream_cache.readings.reading import Reading
from stream_cache.settings import RedisSettings
from stream_cache.store.store import Store
from tests.services.redis_kinds import RedisKind
from tests.store_bench import merged, record_of

_DEVICES = 400
_WINDOW = 120
_PAUSE_S = 0.02
_ANSWERS_WITHIN_S = 3.0


@dataclass
class Report:
    """What was seen: times in seconds."""

    acked: dict[str, int] = field(default_factory=dict)
    """Device -> the offset of its latest event in an acknowledged put: event times go up with offsets."""
    acked_at: dict[tuple[str, int], float] = field(default_factory=dict)
    longest_put_s: float = 0.0
    failed_put_count: int = 0
    backwards: list[str] = field(default_factory=list)
    slow_answers: list[float] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    lookup_count: int = 0
    unavailable_count: int = 0


class Load:
    """Puts windows without end, each until it succeeds; and looks devices up beside, single and in bulk."""

    def __init__(self, kind: RedisKind, **environ: str) -> None:
        self.store = Store(RedisSettings.from_env({**kind.env(), **environ}))
        self.reader = Store(RedisSettings.from_env({**kind.env(), **environ}))
        self.report = Report()
        self.names = [f"d{number}" for number in range(_DEVICES)]
        self._random = random.Random(3)
        self._offset = 0
        self._stops = False
        self._base_ms = int(time.time() * 1000) - 3_600_000
        self._old: deque[list[Reading]] = deque(maxlen=20)

    async def run(
        self, trouble: Callable[[], Awaitable[None]], *, before_s: float = 1.0, after_s: float = 3.0
    ) -> Report:
        """Run under load: a while, the trouble, and a while after it."""
        await self.store.set_state("ok")
        tasks = [asyncio.create_task(self._put()), asyncio.create_task(self._look())]
        try:
            await asyncio.sleep(before_s)
            await trouble()
            await asyncio.sleep(after_s)
        finally:
            self._stops = True
            await asyncio.gather(*tasks)
        return self.report

    async def close(self) -> None:
        await self.store.close()
        await self.reader.close()

    def _next_window(self) -> list[Reading]:
        if self._old and self._random.random() < 0.1:
            return self._random.choice(self._old)
        records = []
        for name in self._random.sample(self.names, _WINDOW):
            self._offset += 1
            metadata = json.dumps({"datatype_name": str(self._offset)})
            timestamp_ms = self._base_ms + self._offset
            records.append(record_of(name, offset=self._offset, timestamp_ms=timestamp_ms, metadata=metadata))
        window = merged(records)
        self._old.append(window)
        return window

    async def _put(self) -> None:
        while not self._stops:
            window = self._next_window()
            began_s = time.monotonic()
            while True:
                try:
                    await self.store.put_latest(window)
                except StoreUnavailable:
                    self.report.failed_put_count += 1
                    await asyncio.sleep(0.1)
                else:
                    break
            now_s = time.monotonic()
            self.report.longest_put_s = max(self.report.longest_put_s, now_s - began_s)
            for event in window:
                offset = event.record.offset
                self.report.acked[event.device_id] = max(offset, self.report.acked.get(event.device_id, 0))
                self.report.acked_at[event.device_id, offset] = now_s
            await asyncio.sleep(_PAUSE_S)

    async def _look(self) -> None:
        seen: dict[str, int] = {}
        while not self._stops:
            some = self._random.sample(self.names, 60)
            began_s = time.monotonic()
            try:
                many = await self.reader.get_many(some)
                one = await self.reader.get(some[0])
            except StoreUnavailable:
                self.report.unavailable_count += 1
                many, one = [], None
            took_s = time.monotonic() - began_s
            if took_s > 2 * _ANSWERS_WITHIN_S:
                self.report.slow_answers.append(took_s)
            self.report.lookup_count += 1
            for asked, device in (*zip(some, many, strict=bool(many)), (some[0], one)):
                if device is None:
                    continue
                if device.device_id != asked:
                    self.report.wrong_answers.append(f"{asked}: {device}")
                offset = _offset_of(device)
                if offset < seen.get(asked, 0):
                    self.report.backwards.append(f"{asked}: {offset} after {seen[asked]}")
                seen[asked] = max(offset, seen.get(asked, 0))
            await asyncio.sleep(_PAUSE_S)

    async def lost(self) -> dict[str, tuple[int, int]]:
        """Return of each device that holds less than was acknowledged what it holds, 0 for nothing, and should."""
        found = await self.store.get_many(self.names)
        held = {name: _offset_of(device) for name, device in zip(self.names, found, strict=True)}
        wrong = {name: offset for name, offset in held.items() if offset > self.report.acked.get(name, 0)}
        assert not wrong, f"holds more than was put: {wrong}"
        return {name: (held[name], acked) for name, acked in self.report.acked.items() if held[name] != acked}


def _offset_of(device: Any) -> int:
    return 0 if device is None else int(device.fields["datatype_name"])
