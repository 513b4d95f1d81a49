"""What aiokafka's fetcher has brought, taken in bounded steps; in the consumer's thread.

Takes the place of `Fetcher.fetched_records`, which counts records only, and of whatever size they are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection
from typing import Any, cast

from aiokafka.consumer.fetcher import FetchError
from aiokafka.protocol.fetch import FetchRequest
from faust.types import TP

from stream_cache.errors import UnreadableBatch
from stream_cache.kafka.batches import STEP_BYTES, Step
from stream_cache.readings.reading import RawRecord

#: Of the connections of long polls.
_GROUP = "fetch"


class FetchingClient:
    """aiokafka's client for its fetcher: long polls take connections of their own.

    A broker answers the requests of a connection one after the other, so whatever shares it with a long poll of an idle
    topic waits: offsets at a start, the metadata that a rebalance waits for.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def send(self, node_id: int, request: Any) -> Awaitable[Any]:
        """Send a request to a broker."""
        if isinstance(request, FetchRequest):
            return self._fetch(node_id, request)
        return cast("Awaitable[Any]", self._client.send(node_id, request))

    async def _fetch(self, node_id: int, request: FetchRequest) -> Any:
        try:
            return await self._client.send(node_id, request, group=_GROUP)
        except asyncio.CancelledError:
            # By a rebalance. The broker goes on with the poll that nobody waits for any more, and would answer the next
            # one after it.
            connection = self._client._conns.pop((node_id, _GROUP), None)  # noqa: SLF001 - nothing public closes one
            if connection:
                connection.close()
            raise


async def wait_for_records(fetcher: Any, active: Collection[TP], timeout_s: float | None) -> None:
    """Wait until a partition has something to take, up to a time. Raises: TimeoutError, KafkaError of the group."""
    if fetcher._subscriptions.reassignment_in_progress:  # noqa: SLF001 - nothing public tells
        await fetcher._subscriptions.wait_for_assignment()  # noqa: SLF001 - as above
    if any(tp in active for tp in fetcher._records):  # noqa: SLF001 - what has been fetched and not yet been read
        return
    waiter = fetcher._create_fetch_waiter()  # noqa: SLF001 - done when a fetch has brought something
    async with asyncio.timeout(timeout_s):
        await waiter


def take(fetcher: Any, active: Collection[TP], max_records: int) -> dict[TP, Step]:
    """Read what has been fetched, up to so many records, and up to about two times `STEP_BYTES`.

    Of the partition that has least left first. So one that is live doesn't wait for another's backlog; and backlogs are
    read one after the other, so that more of a window's readings are of the same devices.
    """
    taken: dict[TP, Step] = {}
    room_bytes = STEP_BYTES
    for tp, result in sorted(fetcher._records.items(), key=_bytes_left):  # noqa: SLF001 - see above
        if tp not in active:
            if not fetcher._subscriptions.is_assigned(tp):  # noqa: SLF001 - see above
                del fetcher._records[tp]  # noqa: SLF001 - see above
            continue
        if isinstance(result, FetchError):
            if taken:
                break
            result.check_raise()
        records: list[RawRecord] = []
        size_bytes = 0
        while max_records > 0 and room_bytes > 0 and result.check_assignment(tp):
            step = _step(result, max_records, is_first=not records)
            if step is None:
                break
            records += step.records
            size_bytes += step.size_bytes
            max_records -= len(step.records)
            # One that brought nothing decompressed as much as the others.
            room_bytes -= step.size_bytes if step.records else STEP_BYTES
        if not result.has_more():
            _forget(fetcher, tp)
        if records:
            taken[tp] = Step(records, size_bytes)
    return taken


def _bytes_left(fetched: tuple[TP, Any]) -> float:
    _, result = fetched
    if isinstance(result, FetchError):
        return math.inf  # not before what can be read
    reader = result._partition_records  # noqa: SLF001 - a `PartitionReader`, None when all is read
    return float(reader.bytes_left) if reader else 0


def _step(result: Any, limit: int, *, is_first: bool) -> Step | None:
    """Read a step, and move the position with it; None when all is read."""
    try:
        step: Step | None = result._partition_records.step(limit)  # noqa: SLF001 - a `PartitionReader`
    except UnreadableBatch:
        if is_first:
            raise
        step = None  # what lies before it is handed over, then it is fetched again
    result._update_position()  # noqa: SLF001 - nothing public does
    if step is None:
        result._partition_records = None  # noqa: SLF001 - as aiokafka marks it
    return step


def _forget(fetcher: Any, tp: TP) -> None:
    """Let the fetcher ask for what comes next in a partition."""
    del fetcher._records[tp]  # noqa: SLF001 - as aiokafka itself does
    fetcher._notify(fetcher._wait_consume_future)  # noqa: SLF001 - as above


def forget_errors(fetcher: Any) -> None:
    """Let the fetcher ask again for the partitions that were refused."""
    for tp, result in list(fetcher._records.items()):  # noqa: SLF001 - see above
        if isinstance(result, FetchError):
            _forget(fetcher, tp)
