"""The index: which devices there are, in the order of their ids, and when each was last seen.

It trails the hashes: a device's hash is written first, its id is indexed then. A crash in between is made good by the
replay that follows it, which finds its own reading there ("equal") and indexes it; all else by the scan (pruning.py).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stream_cache.readings.reading import Reading
from stream_cache.store import keys, scripts
from stream_cache.store.connection import Connection
from stream_cache.store.memory import RecentIds
from stream_cache.store.node import Lane
from stream_cache.store.scripts import Call

#: Where `seen` is so much later than the winner, the hash is pruned by the winner's time: an id leaves the index within
#: 60 s of its hash's expiry, of which a lease and a pause between two rounds take 15 s each.
LATE_MS = 20_000
#: Pages that one answer may go through in search of ids whose hash lives.
_PAGES_AT_MOST = 20
#: What the entries of one HTTP answer may amount to, as JSON (the contract, section 4).
MAX_ANSWER_BYTES = 16 * 2**20
LOOKUP_TIMEOUT_S = 2.5  # the contract promises an answer within 3 s
_ONE = ord("1")
_NEW, _UPDATED, _EQUAL, _GONE, _STALE = b"nuegs"


class Page(NamedTuple):
    """One page of the index."""

    device_ids: list[str]
    total_count: int
    next_cursor: str | None


class Index:
    """The index in Redis.

    Args:
        skip_s: a device that was indexed less than this ago is not indexed again for being updated.
    """

    def __init__(self, connection: Connection, *, timeout_s: float, skip_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._recent = RecentIds(skip_s)

    async def take_in(self, events: Sequence[Reading], letters: bytes, held_ms: dict[int, int]) -> None:
        """Index devices as `put.lua` says by its letters; `held_ms` has the held winner's timestamp of each stale one.

        Raises: StoreUnavailable within the time.
        """
        self._recent.age()
        living: dict[str, int] = {}
        raised: dict[str, int] = {}
        late: dict[str, int] = {}
        gone: list[str] = []
        recent = self._recent
        for number, (event, letter) in enumerate(zip(events, letters, strict=True)):
            device_id = event.device_id
            if letter in (_UPDATED, _NEW, _EQUAL):
                if letter == _UPDATED and device_id in recent:
                    continue
                own_ms = event.record_ms
                living[device_id] = event.seen_ms
                if event.seen_ms - own_ms > LATE_MS:
                    late[device_id] = own_ms
            elif letter == _GONE:
                gone.append(device_id)
            elif letter == _STALE:
                raised[device_id] = event.seen_ms
                if event.seen_ms - held_ms[number] > LATE_MS:
                    late[device_id] = held_ms[number]
        if not (living or raised or gone):
            return
        lists = [part for some in (living, raised, late) for part in (list(some), list(some.values()))]
        await self._index_lists([*lists, gone])
        recent.add(living)
        recent.discard(gone)

    async def add(self, seen_ms_by_id: Mapping[bytes, int]) -> None:
        """Put devices into the index that are not in it. Raises: StoreUnavailable within the time."""
        ids = [scripts.as_text(device_id) for device_id in seen_ms_by_id]
        await self._index_lists([ids, list(seen_ms_by_id.values()), *([],) * 5])

    async def _index_lists(self, lists: Sequence[Sequence[Any]]) -> None:
        call = scripts.INDEX.call(keys.INDEX, msgspec.msgpack.encode(lists))
        await self._connection.write([call], timeout_s=self._timeout_s)

    async def remove(self, scores_by_id: Mapping[bytes, bytes]) -> int:
        """Take devices out, but not one that was indexed since: `seen` had this score before its hash was examined.

        Returns: how many. Raises: StoreUnavailable within the time.
        """
        ids = [scripts.as_text(device_id) for device_id in scores_by_id]
        blob = msgspec.msgpack.encode((ids, [score.decode() for score in scores_by_id.values()]))
        call = scripts.PRUNE.call(keys.INDEX, blob)
        (count,) = await self._connection.write([call], timeout_s=self._timeout_s)
        self._recent.discard(_texts(list(scores_by_id)))
        return int(count)

    async def count(self) -> int:
        """Return how many devices are held. Raises: StoreUnavailable within the time."""
        (count,) = await self._connection.run([_call("SCARD", keys.DEVICES)], timeout_s=self._timeout_s)
        return int(count)

    async def list_devices(self, limit: int, cursor: str | None) -> Page:
        """Return one page of ids, in the order of their UTF-8 bytes. An id that stays is seen exactly once over all.

        Shape: `limit` ids, fewer where there are no more, or where they would be more than 16 MiB of JSON.
        Of an id whose hash is gone nothing is shown; the page is filled up with those that follow. A page may be short
        all the same, and have a cursor, where very many in a row are gone.

        Raises: ValueError for a cursor that is not one of ours; StoreUnavailable within 2.5 s.
        """
        after = b"" if cursor is None else decode_cursor(cursor)
        found: list[bytes] = []
        count = size_bytes = 0
        for _ in range(_PAGES_AT_MOST):
            page_call = _call("ZRANGEBYLEX", keys.IDS, b"(" + after if after else "-", "+", "LIMIT", 0, limit + 1)
            ids, count = await self._look([page_call, _call("SCARD", keys.DEVICES)])
            living = await self.living(ids)
            # One more than the page has: whether there is a next one.
            for device_id in ids:
                if device_id in living:
                    size_bytes += len(msgspec.json.encode(device_id.decode(errors="replace"))) + 1
                    if len(found) == limit or (found and size_bytes > MAX_ANSWER_BYTES):
                        return Page(_texts(found), count, encode_cursor(found[-1]))
                    found.append(device_id)
                after = device_id
            if len(ids) <= limit:
                return Page(_texts(found), count, None)
        return Page(_texts(found), count, encode_cursor(after))

    async def living(self, ids: Sequence[bytes]) -> set[bytes]:
        """Return those of the ids whose hash has a `last_updated`. Raises: StoreUnavailable within 2.5 s."""
        size = 1 if self._connection.devices_per_call == 1 else scripts.HASHES_PER_CALL
        hash_keys = [keys.metadata_key_of(device_id) for device_id in ids]
        calls = [scripts.LIVING.call(some) for some in scripts.in_calls(hash_keys, size)]
        found = b"".join(await self._look(calls))
        return {device_id for device_id, lives in zip(ids, found, strict=True) if lives == _ONE}

    async def _look(self, calls: Sequence[Call]) -> list[Any]:
        return await self._connection.run(calls, timeout_s=LOOKUP_TIMEOUT_S, lane=Lane.READ)


def _call(name: str, key: str | bytes, *arguments: str | bytes | int) -> Call:
    return Call(key, (name, key, *arguments))


def _texts(ids: Sequence[bytes]) -> list[str]:
    return [device_id.decode(errors="replace") for device_id in ids]


def encode_cursor(device_id: bytes) -> str:
    """Return the cursor of the page that comes after this id."""
    return base64.urlsafe_b64encode(device_id).decode()


def decode_cursor(cursor: str) -> bytes:
    """Return the id that a cursor was made of. Raises: ValueError."""
    try:
        device_id = base64.urlsafe_b64decode(cursor.encode("ascii"))
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(str(error)) from None
    if not device_id or encode_cursor(device_id) != cursor:
        raise ValueError(repr(cursor))
    return device_id
