"""What the rest of the service may ask of the consumer: is it a member of its group, and how far has it come.

Between Faust's app, with the consumer of `transport.py`, and the probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import faust
from aiokafka import errors
from faust.types import TP

from stream_cache.kafka.transport import ChunkConsumer

Offsets = Mapping[TP, int | None]

#: What a check says where nothing is wrong, and where nobody can tell.
OK, UNKNOWN = "ok", "unknown"
_REFUSALS = {
    errors.GroupAuthorizationFailedError: "is not allowed: grant READ on this group to the service's user",
    errors.InconsistentGroupProtocolError: (
        "has members of another kind (another assignor): name a group that only this service uses"
    ),
    errors.InvalidSessionTimeoutError: (
        "can't be joined: the broker doesn't allow KAFKA_SESSION_TIMEOUT_S (its group.min.session.timeout.ms and "
        "group.max.session.timeout.ms)"
    ),
}


class Membership:
    """A worker's membership of its consumer group. Offsets are of the assigned partitions, None for none committed."""

    def __init__(self, app: faust.App, topic: str, group: str) -> None:
        self._app, self.topic, self.group = app, topic, group
        #: Why the group has refused this worker when it last tried to join or to stay.
        self.refusal: str | None = None

    @property
    def state(self) -> str:
        """Return "ok" for a member that does its share (a spare without partitions too), else what it does."""
        if self.refusal:
            return self.refusal
        if self.is_rebalancing:
            return "rebalancing"
        if self._app._assignment is None:  # noqa: SLF001 - Faust tells it nowhere else
            return "joining the group"
        return "recovering" if self._app.in_recovery else OK

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are being handed over."""
        return bool(self._app.rebalancing)

    @property
    def has_died(self) -> bool:
        """Whether the client has stopped to take part in the group, for ever."""
        return not self._consumer.is_coordinating

    def check(self) -> None:
        """Notice whether the group refuses this worker, and let the client try again. To be called each second."""
        error = self._consumer.take_group_error()
        if error is not None:
            reason = _REFUSALS.get(type(error), f"refuses this worker: {error!r}")
            self.refusal = f"group {self.group!r} (KAFKA_CONSUMER_GROUP_ID) {reason}"
        elif not self.is_rebalancing and self._app._assignment is not None:  # noqa: SLF001 - as above
            self.refusal = None

    def assigned_partitions(self) -> frozenset[int]:
        """Return the source topic's partitions that are this worker's."""
        return frozenset(tp.partition for tp in self._consumer.assigned_tps())

    def committed_offsets(self) -> Offsets:
        """Return how far each partition is committed."""
        return self._consumer.committed_offsets()

    @property
    def _consumer(self) -> ChunkConsumer:
        return cast("ChunkConsumer", self._app.consumer)
