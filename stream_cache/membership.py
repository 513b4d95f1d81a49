"""What the rest of the service may ask of the consumer: is it a member of its group, and how far has it come.

Between Faust's app, with the consumer of `batching.py`, and the probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import faust
from faust.types import TP

from stream_cache.batching import ChunkConsumer

Offsets = Mapping[TP, int | None]


class Membership:
    """A worker's membership of its consumer group. Offsets are of the assigned partitions, None for none committed."""

    def __init__(self, app: faust.App, topic: str) -> None:
        self._app, self.topic = app, topic

    @property
    def state(self) -> str:
        """Return "ok" for a member that does its share (a spare without partitions too), else what it does."""
        if self._app.rebalancing:
            return "rebalancing"
        return "joining the group" if self._app._assignment is None else "ok"  # noqa: SLF001 - Faust tells it nowhere else

    @property
    def has_died(self) -> bool:
        """Whether the client has stopped to take part in the group, for ever."""
        return not self._consumer.is_coordinating

    def committed_offsets(self) -> Offsets:
        """Return how far each partition is committed."""
        return self._consumer.committed_offsets()

    def lag(self) -> int:
        """Return how many records are not yet committed, as far as the last fetches told."""
        return self._consumer.lag()

    def partition_count(self) -> int | None:
        """Return how many partitions the source topic has, None while it doesn't exist."""
        return self._consumer.partition_count(self.topic)

    async def is_group_at_beginning(self) -> bool:
        """Tell whether the group, all its workers, has read nothing of the topic yet. Raises: KafkaError."""
        return await self._consumer.is_group_at_beginning(self.topic)

    @property
    def _consumer(self) -> ChunkConsumer:
        return cast("ChunkConsumer", self._app.consumer)
