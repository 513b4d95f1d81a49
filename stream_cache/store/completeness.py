"""Whether what Redis holds is complete: a word that is lost with everything else when a server comes back empty."""

from __future__ import annotations

from stream_cache.store import keys
from stream_cache.store.connection import Connection
from stream_cache.store.scripts import Call


class Completeness:
    """Keeps the word on each server: on a Cluster, one master may come back empty alone."""

    def __init__(self, connection: Connection, *, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s

    async def get_state(self) -> str | None:
        """Return what `set_state` said last, None when any server has lost it; the greatest where they differ.

        Asked by a command that only a master takes, so that a master that has moved is noticed without a flush too.

        Raises: StoreUnavailable within the time.
        """
        texts = await self._connection.run(
            [Call(key, ("GETEX", key)) for key in await self._keys()], timeout_s=self._timeout_s
        )
        return None if None in texts else max(text.decode() for text in texts)

    async def set_state(self, state: str) -> None:
        """Keep a word on whether the state is complete, for as long as Redis keeps anything.

        Raises: StoreUnavailable within the time.
        """
        calls = [Call(key, ("SET", key, state)) for key in await self._keys()]
        await self._connection.run(calls, timeout_s=self._timeout_s)

    async def _keys(self) -> list[str]:
        return [keys.state_key(tag) for tag in await self._connection.tags(timeout_s=self._timeout_s)]
