"""The tumbling table of the running window, in memory only: Faust's, without a changelog and a recovery."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import faust
from faust.tables import TableManager
from faust.tables.wrappers import WindowWrapper
from faust.types.tables import CollectionT
from faust.types.windows import WindowRange
from faust.windows import TumblingWindow


def latest_by_partition(app: faust.App, size_s: float, clock: Callable[[], float] = time.time) -> WindowWrapper:
    """Define the table: by partition, what the window knows of that partition's devices.

    It never expires by itself: only a flush takes readings out, else a long Redis outage would lose them.
    """
    table = app.Table("latest", partitions=None, help="Latest reading per device of the running window.")
    by_partition = cast("WindowWrapper", table.using_window(_FlushWindow(size_s)))
    return cast("WindowWrapper", by_partition.relative_to(lambda _event: clock()))


class _FlushWindow(TumblingWindow):
    """A tumbling window of any size: Faust's own steps in whole seconds, and fails below one (`int(step)` is 0)."""

    def ranges(self, timestamp: float) -> list[WindowRange]:
        return [self.current(timestamp)]


class ChangelogFreeTable(faust.Table[Any, Any]):
    """A table in memory only. A changelog write costs 100-200 µs and would buy nothing here."""

    async def on_start(self) -> None:
        """Start the store, and declare no topic."""
        await self.add_runtime_dependency(self.data)

    def on_key_set(self, key: Any, value: Any) -> None:
        """Tell the sensors, and send nothing."""
        self._sensor_on_set(self, key, value)

    def on_key_del(self, key: Any) -> None:
        """Tell the sensors, and send nothing."""
        self._sensor_on_del(self, key)


class ChangelogFreeTableManager(TableManager):
    """Keeps tables that have no changelog: there is no topic to subscribe to, and nothing to recover from."""

    def add(self, table: CollectionT) -> CollectionT:
        """Register a table under its name only."""
        self[table.name] = table
        return table

    async def on_start(self) -> None:
        """Start at once. Faust waits a second for tables to come; ours was made with the app."""
        await self._update_channels()
        await self.recovery.start()

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()
