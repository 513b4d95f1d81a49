"""Probes: can the process do its job at all, and does it do it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_cache.errors import StoreUnavailable

if TYPE_CHECKING:
    from stream_cache.app import StreamCache


class Health:
    """What the health views answer."""

    def __init__(self, app: StreamCache) -> None:
        self._app = app

    def liveness(self) -> dict[str, str]:
        """Return what makes a restart the best help, by check; empty when all is well."""
        return {}

    async def readiness(self) -> dict[str, str]:
        """Return each check's state: "ok", or what is the matter. Takes up to 2.5 s when Redis doesn't answer."""
        app = self._app
        group = "ok" if app.has_joined_group else "joining the group" if not app.rebalancing else "rebalancing"
        error_topic = app.dead_letters.trouble
        try:
            await app.store.ping()
        except StoreUnavailable as error:
            redis = str(error)
        else:
            redis = "ok"
        return {"kafka": group, "redis": redis, "error_topic": error_topic or "ok"}
