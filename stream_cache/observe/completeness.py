"""Notices when Redis has lost its state, says how to rebuild it, and when it is rebuilt.

A key in Redis says that the state is complete. When it is gone, Redis was emptied (restarted without persistence,
flushed, failed over to an empty replica): what was written since is right, but devices that have been silent since are
missing, and their records lie before the committed offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import mode

from stream_cache.errors import KafkaUnavailable, StoreUnavailable
from stream_cache.kafka.broker_watch import BrokerWatch
from stream_cache.kafka.membership import OK, UNKNOWN, Membership
from stream_cache.readings.times import format_time, now
from stream_cache.settings import Settings
from stream_cache.store.store import Store

# What the key may hold.
COMPLETE = OK
REBUILDING = "rebuilding"
_LOST = "lost at "
_CHECK_EVERY_S, _CHECK_AGAIN_S, _LOOK_AGAIN_S = 2.0, 0.5, 0.1


class StateGuard(mode.Service):
    """Watches the key. `status` is "ok", "unknown", or says what is missing and what to do.

    What is missing would have expired after the TTL anyway: then the state counts as complete again.
    """

    def __init__(
        self, store: Store, membership: Membership, broker_watch: BrokerWatch, settings: Settings, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._store, self._membership, self._broker_watch = store, membership, broker_watch
        self._settings = settings
        self._initialised = asyncio.Event()
        #: Where the topic ended when the rebuild was first seen: what is to be read until all devices are there.
        self._goal: Mapping[int, int] | None = None
        self.status = UNKNOWN
        #: Whether Redis, or Kafka, keeps this worker from beginning.
        self.is_waiting = False

    @property
    def is_initialised(self) -> bool:
        """Whether it is known what this worker begins with."""
        return self._initialised.is_set()

    async def wait_until_initialised(self) -> None:
        """Wait until it is known what this worker begins with: nothing may be written before."""
        await self._initialised.wait()

    @mode.Service.task
    async def _watch_state(self) -> None:
        await self._check_servers()
        while not self.should_stop:
            pause_s = _CHECK_EVERY_S
            if not self.is_initialised and self._membership.state != OK:
                pause_s = _LOOK_AGAIN_S
            else:
                await self._look()
            await self.sleep(pause_s)

    async def _check_servers(self) -> None:
        """Wait until Redis can be asked what it is. Raises: UnfitServer, which ends the process."""
        while not self.should_stop:
            try:
                warnings = await self._store.check()
            except StoreUnavailable as error:
                self.is_waiting = True
                self.status = _waiting_for(error)
                await self.sleep(_CHECK_AGAIN_S)
            else:
                for warning in warnings:
                    self.log.warning("%s", warning)
                return

    async def _look(self) -> None:
        try:
            if not self.is_initialised:
                self.is_waiting = True
                await self._initialise()
            await self._check()
        except (StoreUnavailable, KafkaUnavailable) as error:
            self.status = UNKNOWN if self.is_initialised else _waiting_for(error)
            # The log has it from the store, or from the broker watch.
        else:
            self.is_waiting = False
            self._initialised.set()

    async def _initialise(self) -> None:
        """Tell a first start or a rebuild (nothing is read yet) from a Redis that was emptied while nobody looked."""
        held = await self._store.get_state()
        if held not in (COMPLETE, REBUILDING) and (await self._broker_watch.progress()).is_at_beginning:
            await self._store.set_state(REBUILDING)

    async def _check(self) -> None:
        held = await self._store.get_state()
        if held is None:
            held = _LOST + format_time(now())
            await self._store.set_state(held)
        elif held.startswith(_LOST) and self._has_expired(held):
            held = COMPLETE
            await self._store.set_state(held)
        if held == REBUILDING:
            await self._check_rebuild()
        else:
            self._goal = None
            self._tell(held)

    async def _check_rebuild(self) -> None:
        """A rebuild has ended when all that the topic held at its beginning is committed, whichever worker read it."""
        progress = await self._broker_watch.progress()
        self._goal = self._goal or progress.ends
        left = progress.left_until(self._goal)
        if left:
            self.status = f"rebuilding: devices are missing until {left} more records are read"
        else:
            await self._store.set_state(COMPLETE)
            self.status, self._goal = OK, None

    def _has_expired(self, held: str) -> bool:
        ttl_s = self._settings.redis.metadata_ttl_s
        lost_at = datetime.fromisoformat(held.removeprefix(_LOST)).replace(tzinfo=None)
        return ttl_s > 0 and now() - lost_at > timedelta(seconds=ttl_s)

    def _tell(self, held: str) -> None:
        if held == COMPLETE:
            self.status = OK
            return
        group, topic = self._settings.kafka.group_id, self._membership.topic
        status = (
            f"state was {held}: Redis was emptied, and devices that have sent nothing since are missing. To "
            f"rebuild: stop all workers, set the offsets of group {group!r} on topic {topic!r} to the earliest, "
            "and start them again"
        )
        if self.status != status:
            self.status = status
            self.log.error("%s", status)


def _waiting_for(error: Exception) -> str:
    return f"waiting before the first reading is taken: {error}"
