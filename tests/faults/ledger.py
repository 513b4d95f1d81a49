"""What was produced, and what must have become of it: the oracle's verdicts, kept as they are needed here."""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from threading import Lock

from tests import harness, oracle, readings
from tests.harness import TopicNames

TTL_S = 86_400
#: How long Kafka may be away while we produce.
PRODUCE_TIMEOUT_S = 300.0


class Ledger:
    """Every record that Kafka acknowledged, folded as it comes: memory grows with devices, not with records.

    Thread-safe: a feeder writes it while the test reads it.
    """

    def __init__(self, topics: TopicNames) -> None:
        self._topics = topics
        self._lock = Lock()
        self._winners: dict[str, tuple[oracle.Order, oracle.Record]] = {}
        self._tombstones: dict[str, tuple[oracle.Order, oracle.Record]] = {}
        self._bad: set[tuple[int, int]] = set()
        self._ends: dict[int, int] = {}
        self._not_in_floor: dict[int, list[tuple[int, str, oracle.Order]]] = {}  # heaps
        self._floor: dict[str, oracle.Order] = {}
        self.record_count = 0
        #: Of the batches to come: the next one for each call of `produce`.
        self.codecs: Iterator[str] = itertools.repeat("gzip")

    def produce(self, drafts: Iterable[readings.Draft]) -> None:
        """Send the drafts, and note what they became. Raises: what `harness.produce` raises."""
        kept: list[readings.Draft] = []

        def records() -> Iterable[harness.Record]:
            for draft in drafts:
                kept.append(draft)
                yield harness.Record(draft.value, draft.key, draft.partition, draft.timestamp_ms)

        placed = harness.produce(
            self._topics.bootstrap,
            self._topics.source,
            records(),
            timeout_s=PRODUCE_TIMEOUT_S,
            codec=next(self.codecs),
        )
        self.note(
            oracle.Record(partition, offset, draft.timestamp_ms, draft.key, draft.value)
            for draft, (partition, offset) in zip(kept, placed, strict=True)
        )

    def note(self, records: Iterable[oracle.Record]) -> None:
        """Note records that stand in the source topic."""
        with self._lock:
            for record in records:
                self._note(record)

    def _note(self, record: oracle.Record) -> None:
        self.record_count += 1
        self._ends[record.partition] = max(record.offset + 1, self._ends.get(record.partition, 0))
        verdict = oracle.judge(record)
        if isinstance(verdict, oracle.Bad):
            self._bad.add((record.partition, record.offset))
            return
        if isinstance(verdict, oracle.Reading) and verdict.metadata is None:
            return
        device_id, order = verdict.device_id, verdict.order
        held = self._winners.get(device_id)
        if held is None or order > held[0]:
            self._winners[device_id] = order, record
        if isinstance(verdict, oracle.Tombstone):
            dead = self._tombstones.get(device_id)
            if dead is None or order > dead[0]:
                self._tombstones[device_id] = order, record
        heapq.heappush(self._not_in_floor.setdefault(record.partition, []), (record.offset, device_id, order))

    def device_ids(self) -> list[str]:
        with self._lock:
            return list(self._winners)

    def bad(self) -> set[tuple[int, int]]:
        """Partition and offset of every bad record."""
        with self._lock:
            return set(self._bad)

    def state(self, *, now_ms: int | None = None) -> oracle.State:
        """Return what Redis must hold after all of it; with a time, without what has expired by then."""
        with self._lock:
            decisive = [record for _, record in (*self._winners.values(), *self._tombstones.values())]
        return oracle.fold(decisive, ttl_s=TTL_S, now_ms=now_ms)

    def covers(self, committed: dict[int, int]) -> bool:
        """Tell whether all below these offsets has been noted."""
        with self._lock:
            return all(offset <= self._ends.get(partition, 0) for partition, offset in committed.items())

    def what_was_committed_too_early(
        self, committed: dict[int, int], held: dict[str, oracle.Order | None]
    ) -> list[str]:
        """Say which devices were older in Redis than the newest record below the committed offsets.

        Offsets may only grow from call to call. `held` was read after `committed`; what Redis has beyond is no fault.
        """
        with self._lock:
            for partition, offset in committed.items():
                waiting = self._not_in_floor.get(partition, [])
                while waiting and waiting[0][0] < offset:
                    _, device_id, order = heapq.heappop(waiting)
                    self._floor[device_id] = max(order, self._floor.get(device_id, order))
            return [
                f"{device_id!r} held {held.get(device_id)}, but {order} was committed"
                for device_id, order in self._floor.items()
                if self._is_older(device_id, held.get(device_id), order)
            ]

    def _is_older(self, device_id: str, held: oracle.Order | None, order: oracle.Order) -> bool:
        if held is not None:
            return held < order
        dead = self._tombstones.get(device_id)
        return dead is None or dead[0] < order
