"""Reading devices' hashes, for those who ask over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from stream_cache.errors import AnswerTooLarge
from stream_cache.readings.times import format_time
from stream_cache.store import keys, scripts
from stream_cache.store.connection import Connection
from stream_cache.store.errors import is_wrong_type
from stream_cache.store.hashes import Device, to_device
from stream_cache.store.index import LOOKUP_TIMEOUT_S, MAX_ANSWER_BYTES
from stream_cache.store.node import Lane
from stream_cache.store.scripts import Call

_FIELDS = ("last_updated", "datatype_id", "datatype_name", "datatype_unit", "persist", "_json")
#: How long a lookup waits at most for a round trip on its way, to share the next one with those that come meanwhile.
_SHARING_S = 0.002
#: From here on, a number of seconds since 1970 is one of milliseconds: the year 5138.
_FIRST_MS = 1e11


class Lookups:
    """Answers of the hashes as they are; of those that an earlier service left, too."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked: list[tuple[str, asyncio.Future[Device | None]]] = []
        self._lookups: set[asyncio.Task[None]] = set()

    async def get(self, device_id: str) -> Device | None:
        """Look one device up; those that arrive together share a round trip. Raises: StoreUnavailable after 2.5 s."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            # Sooner where the round trip that is on its way ends before: `_end_lookup`.
            loop.call_later(_SHARING_S if self._lookups else 0, self._start_lookup)
        answer: asyncio.Future[Device | None] = loop.create_future()
        self._asked.append((device_id, answer))
        return await answer

    def _start_lookup(self) -> None:
        if self._asked:
            asked, self._asked = self._asked, []
            lookup = asyncio.create_task(self._answer(asked))
            self._lookups.add(lookup)
            lookup.add_done_callback(self._end_lookup)

    def _end_lookup(self, lookup: asyncio.Task[None]) -> None:
        self._lookups.discard(lookup)
        self._start_lookup()

    async def _answer(self, asked: Sequence[tuple[str, asyncio.Future[Device | None]]]) -> None:
        found: dict[str, Device | None] = {}
        failure: Exception | None = None
        try:
            wanted = list(dict.fromkeys(device_id for device_id, _ in asked))
            while len(found) < len(wanted):  # again where the answer was cut: they are answers of their own
                found |= await self._look_up(wanted[len(found) :])
        except Exception as error:  # noqa: BLE001 - it is raised again, in each of the lookups that wait
            failure = error
        for device_id, answer in asked:
            if answer.done():  # whoever asked has hung up
                continue
            if failure and device_id not in found:
                answer.set_exception(failure)
            else:
                answer.set_result(found[device_id])

    async def get_many(self, device_ids: Sequence[str]) -> list[Device | None]:
        """Look devices up in one round trip, one per node of a Cluster; None for each that isn't there.

        An id that is named twice is fetched once.

        Raises: StoreUnavailable within 2.5 s; AnswerTooLarge for more than 16 MiB of metadata.
        """
        wanted = list(dict.fromkeys(device_ids))
        found = await self._look_up(wanted)
        if len(found) < len(wanted):
            raise AnswerTooLarge(MAX_ANSWER_BYTES)
        return [found[device_id] for device_id in device_ids]

    async def _look_up(self, device_ids: Sequence[str]) -> dict[str, Device | None]:
        """Return what there is of each: of the first ones only, at least one, where it would be beyond 16 MiB."""
        found: dict[str, Device | None] = {}
        size_bytes = 0
        for device_id, fields in zip(device_ids, await self._fields_of(device_ids), strict=False):
            size_bytes += sum([len(text) for text in fields if text])
            if found and size_bytes > MAX_ANSWER_BYTES:
                break
            found[device_id] = _device(device_id, fields) if fields else None
        return found

    async def _fields_of(self, device_ids: Sequence[str]) -> list[Sequence[bytes | None]]:
        hash_keys = [keys.metadata_key(device_id) for device_id in device_ids]
        # HMGET is the quickest for one; many of one server by a script, whose reply redis-py reads as one.
        if self._connection.devices_per_call == 1 or len(device_ids) <= 1:
            calls = [Call(key, ("HMGET", key, *_FIELDS)) for key in hash_keys]
            replies = await self._connection.run(calls, timeout_s=LOOKUP_TIMEOUT_S, lane=Lane.READ)
            return [() if is_wrong_type(fields) or fields[0] is None else fields for fields in replies]
        pages = scripts.in_calls(hash_keys, scripts.HASHES_PER_CALL)
        calls = [scripts.GET_MANY.call(page, MAX_ANSWER_BYTES) for page in pages]
        replies = await self._connection.run(calls, timeout_s=LOOKUP_TIMEOUT_S, lane=Lane.READ)
        found: list[Sequence[bytes | None]] = []
        for page, reply in zip(pages, replies, strict=True):
            found += reply
            if len(reply) < len(page):  # it was cut
                break
        return found


def _device(device_id: str, fields: Sequence[bytes | None]) -> Device:
    device = to_device(device_id, fields)
    text = device.last_updated
    return device if text.endswith("Z") else device._replace(last_updated=time_of_epoch(text))


def time_of_epoch(text: str) -> str:
    """Return an earlier service's `last_updated`, seconds or ms since 1970, in our form; other text as it is."""
    try:
        number = float(text)
        seconds = number / 1000 if abs(number) >= _FIRST_MS else number
        return format_time(datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None))
    except (ValueError, OverflowError, OSError):
        return text
