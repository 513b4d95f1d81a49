"""The latest reading of each device in the running window.

Kept in a Faust tumbling table (see `kafka/tables.py`). Its key is the partition, its value all that the window knows of
that partition's devices: one table write per partition and window instead of one per device. It has no changelog: the
source topic is the log, because offsets are committed only after the flush.
"""

from __future__ import annotations

from faust.tables.wrappers import WindowWrapper

from stream_cache.readings.reading import Latest


class Window:
    """What has been taken from Kafka and not yet been handed to a flush."""

    def __init__(self, latest_by_partition: WindowWrapper) -> None:
        self._by_partition = latest_by_partition
        self._entries = latest_by_partition.table

    def add(self, partition: int, latest: Latest) -> None:
        """Take over the latest that a chunk of one partition says. Only inside the agent."""
        try:
            held = self._by_partition[partition].value()
        except KeyError:
            self._by_partition[partition] = latest
        else:
            held.merge(latest.by_device.values())

    def take(self) -> Latest:
        """Hand over everything, and be empty."""
        taken = Latest()
        for key, latest in list(self._entries.items()):
            del self._entries[key]
            taken.take_over(latest)
        return taken

    def device_count(self) -> int:
        """Return how many devices wait for the next flush."""
        return sum(len(latest.by_device) for latest in self._entries.values())
