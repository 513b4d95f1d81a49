"""Notices when Redis has lost its state, and says how to rebuild it.

A key in Redis says that the state is complete. When it is gone, Redis was emptied (restarted without persistence,
flushed, failed over to an empty replica): what was written since is right, but devices that have been silent since are
missing, and their records lie before the committed offsets.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import mode

from stream_cache.errors import StoreUnavailable
from stream_cache.membership import Membership
from stream_cache.models import format_time, now
from stream_cache.settings import Settings
from stream_cache.store import Store

COMPLETE = "ok"
_LOST = "lost at "
_CHECK_EVERY_S = 2.0


class StateGuard(mode.Service):
    """Watches the key. `finding` is "ok", or says what is missing and what to do.

    What is missing would have expired after the TTL anyway: then the state counts as complete again.
    """

    def __init__(self, store: Store, membership: Membership, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store, self._membership, self._settings = store, membership, settings
        self._has_seen_key = False
        self._had_devices = False
        self.finding = COMPLETE

    @mode.Service.task
    async def _watch_state(self) -> None:
        while not self.should_stop:
            try:
                await self._check()
            except StoreUnavailable as error:
                self.log.debug("the state can't be looked at: %s", error)
            await self.sleep(_CHECK_EVERY_S)

    async def _check(self) -> None:
        store, started_from = self._store, self._membership.started_from
        if started_from is None:  # nothing has been written by this worker yet
            self._had_devices = await store.has_devices()
            return
        held = await store.get_state()
        if not self._has_seen_key and started_from:
            if await self._membership.is_beginning(started_from) or (held is None and self._had_devices):
                held = COMPLETE
                await store.set_state(COMPLETE)
            self._has_seen_key = True
        if held is None and self._has_seen_key:
            held = _LOST + format_time(now())
            await store.set_state(held)
        elif held is not None and held.startswith(_LOST) and self._has_expired(held):
            held = COMPLETE
            await store.set_state(COMPLETE)
        self._has_seen_key |= held is not None
        self._tell(held or COMPLETE)

    def _has_expired(self, held: str) -> bool:
        ttl_s = self._settings.redis_metadata_ttl_s
        lost_at = datetime.fromisoformat(held.removeprefix(_LOST))
        return ttl_s > 0 and datetime.now(UTC) - lost_at > timedelta(seconds=ttl_s)

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
