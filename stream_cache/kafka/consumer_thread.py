"""The consumer's thread: fetches, decompresses and decodes, and keeps up the membership of the group.

Decoding here leaves the main thread's event loop to flushes and lookups, and passes the interpreter's lock to and fro
less often. Heartbeats are sent from this thread too, so what it does at once is bounded: by records and by bytes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream_cache.kafka.batches import Step
from stream_cache.kafka.broker_wait import PatientConsumerThread
from stream_cache.kafka.chunks import Chunk
from stream_cache.kafka.fetching import FetchingClient, forget_errors, take, wait_for_records
from stream_cache.waiting import WaitingLog, end_other_tasks, ends_within

if TYPE_CHECKING:
    import aiokafka

    from stream_cache.kafka.transport import ChunkConsumer

_log = logging.getLogger(__name__)
_NOTHING = Step((), 0)
_ASK_AGAIN_S, _COMMIT_WITHIN_S = 1.0, 5.0
_LAST_TASKS_WITHIN_S = 0.5


class ConsumerThread(PatientConsumerThread):
    """Hands over one chunk per partition and fetch."""

    consumer: ChunkConsumer
    #: Where the chunks handed over so far end. Read and written in this thread only.
    _handed_over: dict[TP, int]
    #: Of the last assignment; empty before the first.
    _member_id = ""

    def __post_init__(self) -> None:
        """Begin with nothing handed over."""
        super().__post_init__()
        self._handed_over = {}
        self._commits = WaitingLog(_log)

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust sets these two to constants, or by its exactly-once mode. The consumer reads them when it starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - see above
        consumer._fetch_max_wait_ms = int(self.consumer.poll_timeout_s * 1000)  # noqa: SLF001 - see above
        return consumer

    async def on_start(self) -> None:
        """Start aiokafka's consumer, and part its connections."""
        await super().on_start()
        if self._consumer is None:  # it was told to stop before Kafka answered
            return
        fetcher = self._consumer._fetcher  # noqa: SLF001 - it exists from now on, and has nothing to fetch yet
        fetcher._client = FetchingClient(fetcher._client)  # noqa: SLF001 - see `FetchingClient`

    # ------------------------------------------------------------------------------------------------- membership

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let go, and look before joining again whether the static id is still ours to join with."""
        await super().on_partitions_revoked(revoked)
        coordinator = self._coordinator
        # aiokafka has thrown away the member id that we had: the broker doesn't know it any more, or its generation.
        has_lost_id = self._member_id and not coordinator.member_id
        instance_id = coordinator._group_instance_id  # noqa: SLF001 - nothing public tells
        if has_lost_id and instance_id is not None and await self._is_taken(instance_id):
            coordinator._group_instance_id = None  # noqa: SLF001 - it can't be set otherwise
            self.log.error(
                "another worker has taken KAFKA_GROUP_INSTANCE_ID %r; going on without a static id: "
                "give each worker its own, and restart them",
                instance_id,
            )

    async def _is_taken(self, instance_id: str) -> bool:
        """Ask the broker whether the group has another member of this static id. False when it doesn't answer."""
        request = DescribeGroupsRequest([self._coordinator.group_id])
        try:
            response = await self._coordinator._send_req(request)  # noqa: SLF001 - goes to the broker that must know
        except KafkaError as error:
            self.log.warning("whether the static id %r is taken can't be told: %s", instance_id, error)
            return False
        # aiokafka asks in a version that leaves static ids out, but the broker makes member ids of them: "id-UUID".
        others = {member[0] for group in response.groups for member in group[5]} - {self._member_id}
        return any(re.fullmatch(rf"{re.escape(instance_id)}-[0-9a-f-]{{36}}", member_id) for member_id in others)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin anew."""
        self._handed_over = {}
        self._member_id = self._coordinator.member_id
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_thread_stop(self) -> None:
        """Leave the group; not for longer than there is time for it, when the broker doesn't answer."""
        if not await ends_within(self.consumer.leave_within_s, super().on_thread_stop()):
            self.log.warning("Kafka does not answer: the worker ends without having left its group")

    async def _gather_remaining_tasks(self) -> None:
        """Take the place of mode's own, which cancels once and waits for ever."""
        await end_other_tasks(_LAST_TASKS_WITHIN_S)

    @property
    def _coordinator(self) -> Any:
        return self._ensure_consumer()._coordinator  # noqa: SLF001 - nothing public tells of the membership

    @property
    def is_coordinating(self) -> bool:
        """Whether the task that keeps up the membership runs, or has not begun."""
        # There is no coordinator while the client looks for its first broker.
        if self._consumer is None or self._consumer._closed or self._coordinator is None:  # noqa: SLF001 - as above
            return True
        return not self._coordinator._coordination_task.done()  # noqa: SLF001 - nothing public tells

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the committed offset of each partition, or to its beginning; return what is committed."""
        return cast("Mapping[TP, int]", await self.call_thread(self._seek_to_committed))

    async def _seek_to_committed(self) -> Mapping[TP, int | None]:
        """Take the place of aiokafka's own, which leaves a partition without a commit where it is.

        A fetch that a rebalance overtook has moved it, and what that fetch brought is dropped: it would never be read.
        Where the beginning lies isn't waited for: reading begins when the broker has said it.
        """
        tps = [TopicPartition(*tp) for tp in self.assignment()]
        committed = await self._coordinator.fetch_committed_offsets(tps)
        fetcher = self._ensure_consumer()._fetcher  # noqa: SLF001 - the consumer's own methods wait
        fetcher.request_offset_reset([tp for tp in tps if tp not in committed], OffsetResetStrategy.EARLIEST)
        for tp, found in committed.items():
            fetcher.seek_to(tp, found.offset)
        return {TP(*tp): committed[tp].offset if tp in committed else None for tp in tps}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit the offsets of partitions that are still ours.

        Returns: False where that was refused, because the group has rebalanced, has lost a permission, or the broker
            doesn't take it: aiokafka would try for ever to commit what was read of a topic that is gone. For Faust, any
            refusal but the first is a crash.
        """
        held = self.assignment()
        ours = {TopicPartition(*tp): offset for tp, offset in offsets.items() if tp in held}
        self.tp_last_committed_at.update(dict.fromkeys(ours, time.monotonic()))
        try:
            if ours:
                async with asyncio.timeout(_COMMIT_WITHIN_S):
                    await self._ensure_consumer().commit(ours)
        except CommitFailedError:
            return False
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError, TimeoutError) as error:
            self._commits.wait(f"a commit was refused, and is tried again: {error!r}")
            return False
        self._commits.end("commits are accepted again")
        return bool(ours)

    def take_group_error(self) -> KafkaError | None:
        """See `ChunkConsumer.take_group_error`."""
        if self._consumer is None or self._coordinator is None:
            return None
        error: KafkaError | None = self._coordinator._pending_exception  # noqa: SLF001 - nothing public tells
        if error is not None:
            self.thread_loop.call_soon_threadsafe(self._try_group_again)
        return error

    def _try_group_again(self) -> None:
        with suppress(KafkaError):
            # A heartbeat that was refused has ended: only joining anew begins another.
            self._coordinator.request_rejoin()
            self._coordinator.check_errors()

    # -------------------------------------------------------------------------------------------------- fetching

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Any:
        """Return a chunk for each partition that has something new; wait for it, up to `timeout`.

        Raises: UnreadableBatch, ConsumerStoppedError.
        """
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher  # noqa: SLF001 - holds what has been fetched
        if consumer._closed or fetcher._closed:  # noqa: SLF001 - nothing public tells
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():  # noqa: SLF001 - by which aiokafka knows that it is not forgotten
            # A group that is refused breaks off these waits. The coordinator waits then, and Health says so.
            with suppress(KafkaError, TimeoutError):
                await wait_for_records(fetcher, active_partitions, timeout)
            try:
                fetched = take(fetcher, active_partitions, max_records or 1)
            except TopicAuthorizationFailedError:  # the broker watch says it
                await asyncio.sleep(_ASK_AGAIN_S)
                forget_errors(fetcher)
                return {}
        return self._as_chunks(fetched)

    def _as_chunks(self, fetched: dict[TP, Step]) -> dict[TP, list[Chunk]]:
        # Nothing is awaited since the records were taken, so the positions are those right after them.
        states = self.partition_states()
        is_caught_up = all(state.lso is not None and state.position >= state.lso for state in states.values())
        chunks = {}
        for tp, state in states.items():
            records, size_bytes = fetched.get(tp, _NOTHING)
            if records or state.position > self._handed_over.get(tp, 0):
                self._handed_over[tp] = state.position
                content = self.consumer.decode(records, tp.partition) if records else None
                chunk = Chunk(content, len(records), state.position, is_caught_up, size_bytes)
                chunks[tp] = [chunk]
        return chunks

    # --------------------------------------------------------------------------------------------- what is known

    @property
    def _assignment(self) -> Any:
        # No public way asks for it, or for a position, without waiting or raising.
        subscription = self._consumer and self._consumer._subscription.subscription  # noqa: SLF001 - see above
        return subscription and subscription.assignment

    def assigned_tps(self) -> frozenset[TP]:
        """Return the assigned partitions, none before there is an assignment."""
        assignment = self._assignment
        return frozenset(assignment.tps if assignment else ())

    def partition_states(self) -> dict[TP, Any]:
        """Return aiokafka's state of each assigned partition that has a position: `.position`, `.lso`."""
        assignment = self._assignment
        states = {tp: assignment.state_value(tp) for tp in assignment.tps} if assignment else {}
        return {tp: state for tp, state in states.items() if state is not None and state.has_valid_position}
