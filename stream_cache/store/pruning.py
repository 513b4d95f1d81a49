"""What keeps the index honest: pieces of work, each of which any worker may do at any time.

Redis says nothing reliable of an expiry. A hash that is gone is found by the time at which it had to be; what others
did by hand, and steps of workers that crossed, by a slow scan of everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from stream_cache.store import keys, scripts
from stream_cache.store.connection import Connection
from stream_cache.store.index import Index
from stream_cache.store.scripts import Call
from stream_cache.store.stamps import kafka_ms

PAGE_COUNT = 500
#: What a whole scan goes through, in this order.
SCANNED = (keys.IDS, keys.DEVICES, keys.SEEN)
#: What was examined and lives is not examined again, unless it was indexed so much later than its record came to Kafka.
_AGAIN_MS = 60_000


class Pruning:
    """Takes ids out of the index whose hash is gone, puts in those that lack, adopts what an earlier service left."""

    def __init__(
        self,
        connection: Connection,
        index: Index,
        *,
        ttl_ms: int,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._index, self._ttl_ms, self._timeout_s = connection, index, ttl_ms, timeout_s
        self._clock = clock
        self._examined_until_ms = 0

    async def take_lease(self, owner: str, seconds: float) -> bool:
        """Become the one worker that prunes, or stay it, for a while. Returns: whether nobody else is.

        Nothing depends on it but cost: ten workers would look at everything ten times.
        Raises: StoreUnavailable within the time.
        """
        lease, lasts_ms = keys.SCAN_LEASE, int(seconds * 1000)
        calls = [Call(lease, ("SET", lease, owner, "NX", "PX", lasts_ms)), Call(lease, ("GET", lease))]
        _, holder = await self._run(calls)
        if holder != owner.encode():
            return False
        await self._run([Call(lease, ("PEXPIRE", lease, lasts_ms))])
        return True

    async def prune_due(self) -> int:
        """Take out the ids whose hash had to expire by now, and has.

        Returns: how many. Raises: StoreUnavailable within the time.
        """
        if not self._ttl_ms:
            return 0
        due_ms = int(self._clock() * 1000) - self._ttl_ms
        removed_count = await self._prune_late(due_ms)
        removed_count += await self._prune_unseen(self._examined_until_ms - _AGAIN_MS, due_ms)
        self._examined_until_ms = due_ms
        return removed_count

    async def _prune_late(self, due_ms: int) -> int:
        """By the winner's time, where `seen` is much later. What lives has a later winner: it is forgotten here."""
        removed_count = 0
        while True:
            page = ("ZRANGEBYSCORE", keys.LATE, "-inf", due_ms, "LIMIT", 0, PAGE_COUNT)
            (ids,) = await self._run([Call(keys.LATE, page)])
            if ids:
                removed_count += await self._examine(ids)
                await self._run([Call(keys.LATE, ("ZREM", keys.LATE, *ids))])
            if len(ids) < PAGE_COUNT:
                return removed_count

    async def _prune_unseen(self, from_ms: int, due_ms: int) -> int:
        """By last seen. What lives has another deadline (an earlier TTL, an adopted hash): it is noted to be late."""
        removed_count = living_count = 0
        while True:
            page = ("ZRANGEBYSCORE", keys.SEEN, from_ms or "-inf", due_ms, "LIMIT", living_count, PAGE_COUNT)
            (ids,) = await self._run([Call(keys.SEEN, page)])
            if ids:
                removed = await self._examine(ids)
                removed_count += removed
                living_count += len(ids) - removed
                await self._note_deadlines(ids)
            if len(ids) < PAGE_COUNT:
                return removed_count

    async def _note_deadlines(self, ids: Sequence[bytes]) -> None:
        """Note when those that live expire, as the Kafka timestamp of which that is the deadline."""
        left_ms = await self._run([_look("PTTL", device_id) for device_id in ids])
        winner_ms = int(self._clock() * 1000) - self._ttl_ms
        scored = [
            word
            for device_id, left in zip(ids, left_ms, strict=True)
            if left >= 0
            for word in (winner_ms + left, device_id)
        ]
        if scored:
            await self._run([Call(keys.LATE, ("ZADD", keys.LATE, *scored))])

    async def scan(self, key: str, position: bytes) -> tuple[int, bytes]:
        """Compare a page of one of the keys `SCANNED` with the hashes and with the others; the first from b"" on.

        Returns: how many were put right, and the position of the next page; empty at the end.
        Raises: StoreUnavailable within the time.
        """
        return await (self._scan_ids(position) if key == keys.IDS else self._scan_members(key, position))

    async def _scan_ids(self, after: bytes) -> tuple[int, bytes]:
        start = b"(" + after if after else "-"
        page = ("ZRANGEBYLEX", keys.IDS, start, "+", "LIMIT", 0, PAGE_COUNT)
        (ids,) = await self._run([Call(keys.IDS, page)])
        count = await self._compare(ids) if ids else 0
        return count, ids[-1] if len(ids) == PAGE_COUNT else b""

    async def _scan_members(self, key: str, cursor: bytes) -> tuple[int, bytes]:
        """Compare those that are not in the index: what is in it, `_scan_ids` compares."""
        command = "SSCAN" if key == keys.DEVICES else "ZSCAN"
        ((cursor, found),) = await self._run([Call(key, (command, key, cursor or b"0", "COUNT", PAGE_COUNT))])
        ids = found if key == keys.DEVICES else found[::2]
        count = 0
        if ids:
            (indexed,) = await self._run([Call(keys.IDS, ("ZMSCORE", keys.IDS, *ids))])
            unknown = [device_id for device_id, score in zip(ids, indexed, strict=True) if score is None]
            count = await self._compare(unknown) if unknown else 0
        return count, b"" if cursor == b"0" else cursor

    async def _compare(self, ids: Sequence[bytes]) -> int:
        """Compare ids with their hashes, and put the index right. Returns: of how many it was not."""
        in_devices, in_ids, seen = await self._run(
            [
                Call(keys.DEVICES, ("SMISMEMBER", keys.DEVICES, *ids)),
                Call(keys.IDS, ("ZMSCORE", keys.IDS, *ids)),
                Call(keys.SEEN, ("ZMSCORE", keys.SEEN, *ids)),
            ]
        )
        hashes = await self._run([_look("HMGET", device_id, "last_updated", keys.STAMP) for device_id in ids])
        gone: dict[bytes, bytes] = {}
        lacking: dict[bytes, int] = {}
        foreign: list[bytes] = []
        for device_id, is_member, score, seen_ms, fields in zip(ids, in_devices, in_ids, seen, hashes, strict=True):
            if isinstance(fields, Exception) or fields[0] is None:
                gone[device_id] = seen_ms or b""
                continue
            if fields[1] is None:
                foreign.append(device_id)
            if not is_member or score is None or seen_ms is None:
                lacking[device_id] = self._winner_ms(*fields)
        if foreign and self._ttl_ms:
            await self._adopt(foreign)
        if lacking:
            await self._index.add(lacking)
        return len(lacking) + (await self._index.remove(gone) if gone else 0)

    def _winner_ms(self, event_time: bytes, stamp: bytes | None) -> int:
        """Return the winner's Kafka timestamp; now, of a hash that has none."""
        try:
            return kafka_ms(event_time.decode(), (stamp or b"").decode().rsplit(":", 1)[-1])
        except ValueError:
            return int(self._clock() * 1000)

    async def _adopt(self, ids: Sequence[bytes]) -> None:
        hash_keys = [keys.metadata_key_of(device_id) for device_id in ids]
        pages = scripts.in_calls(hash_keys, self._connection.devices_per_call)
        await self._run([scripts.ADOPT.call(page, self._ttl_ms) for page in pages])

    async def _examine(self, ids: Sequence[bytes]) -> int:
        """Take out those of the ids whose hash is gone. Returns: how many."""
        (seen,) = await self._run([Call(keys.SEEN, ("ZMSCORE", keys.SEEN, *ids))])
        living = await self._index.living(ids)
        gone = {device_id: score or b"" for device_id, score in zip(ids, seen, strict=True) if device_id not in living}
        return await self._index.remove(gone) if gone else 0

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        return await self._connection.run(calls, timeout_s=self._timeout_s)


def _look(command: str, device_id: bytes, *fields: str) -> Call:
    key = keys.metadata_key_of(device_id)
    return Call(key, (command, key, *fields))
