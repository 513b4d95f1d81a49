"""Notices when Redis has lost its state, and says how to rebuild it.

A key in Redis says that the state is complete. When it is gone, Redis was emptied (restarted without persistence,
flushed, failed over to an empty replica): what was written since is right, but devices that have been silent since are
missing, and their records lie before the committed offsets.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import mode
from aiokafka.errors import KafkaError

from stream_cache.errors import StoreUnavailable
from stream_cache.membership import Membership
from stream_cache.models import format_time, now
from stream_cache.settings import Settings
from stream_cache.store import Store

COMPLETE = "ok"
_LOST = "lost at "
_CHECK_EVERY_S, _LOOK_AGAIN_S = 2.0, 0.1


class StateGuard(mode.Service):
    """Watches the key. `finding` is "ok", or says what is missing and what to do.

    What is missing would have expired after the TTL anyway: then the state counts as complete again.
    """

    def __init__(self, store: Store, membership: Membership, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store, self._membership, self._settings = store, membership, settings
        self._has_decided = asyncio.Event()
        self.finding = COMPLETE
        #: Whether it is Redis that keeps this worker from beginning.
        self.is_waiting_for_redis = False

    async def wait_until_decided(self) -> None:
        """Wait until it is known what this worker begins with: nothing may be written before."""
        await self._has_decided.wait()

    @mode.Service.task
    async def _watch_state(self) -> None:
        while not self.should_stop:
            pause_s = _CHECK_EVERY_S
            try:
                if self._has_decided.is_set():
                    await self._check()
                elif self._membership.state == "ok":
                    await self._decide()
                    self._has_decided.set()
                else:
                    pause_s = _LOOK_AGAIN_S
            except StoreUnavailable:
                pass  # the store says it
            except KafkaError as error:
                self.log.warning("whether Redis has lost its state can't be told yet: %s", error)
            await self.sleep(pause_s)

    async def _decide(self) -> None:
        """Tell a first start or a rebuild (nothing is read yet) from a Redis that was emptied while nobody looked."""
        self.is_waiting_for_redis = True
        held = await self._store.get_state()
        self.is_waiting_for_redis = False
        if held == COMPLETE:
            return
        if await self._membership.is_group_at_beginning():
            await self._store.set_state(COMPLETE)
        else:
            await self._check()

    async def _check(self) -> None:
        held = await self._store.get_state()
        if held is None:
            held = _LOST + format_time(now())
            await self._store.set_state(held)
        elif held.startswith(_LOST) and self._has_expired(held):
            held = COMPLETE
            await self._store.set_state(COMPLETE)
        self._tell(held)

    def _has_expired(self, held: str) -> bool:
        ttl_s = self._settings.redis_metadata_ttl_s
        lost_at = datetime.fromisoformat(held.removeprefix(_LOST)).replace(tzinfo=None)
        return ttl_s > 0 and now() - lost_at > timedelta(seconds=ttl_s)

    def _tell(self, held: str) -> None:
        if held == COMPLETE:
            self.finding = COMPLETE
        elif self.finding == COMPLETE:
            group, topic = self._settings.kafka_consumer_group_id, self._membership.topic
            self.finding = (
                f"state was {held}: Redis was emptied, and devices that have sent nothing since are missing. To "
                f"rebuild: stop all workers, set the offsets of group {group!r} on topic {topic!r} to the earliest, "
                "and start them again"
            )
            self.log.error("%s", self.finding)
