"""Which server holds a key. Nobody else knows whether it is one Redis, sentinels' master, or a Cluster."""

# ruff: noqa: D102 - the protocol says what its methods do

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio.sentinel import Sentinel
from redis.exceptions import AskError, RedisError

from stream_cache.redis_target import Address, Kind
from stream_cache.settings import RedisSettings
from stream_cache.store.cluster import RedisCluster
from stream_cache.store.errors import UnfitServer
from stream_cache.store.node import Node, connection_options, sentinel_options

_log = logging.getLogger(__name__)
#: How long a sentinel may take to say which server is the master.
_ASK_TIMEOUT_S = 1.0
_WATCH_EVERY_S = 1.0


class Topology(Protocol):
    """Where keys lie."""

    #: Devices in one script call. 50 is the knee on one server; a Cluster's keys lie apart.
    devices_per_call: int

    async def prepare(self) -> None:
        """Find out where things are, unless that is known. Raises: RedisError, OSError."""

    async def refresh(self) -> None:
        """Find out anew: something was not where it was thought to be. Never raises."""

    def node_of(self, key: str | bytes) -> Node:
        """Return the server that takes calls on this key."""

    def nodes(self) -> Sequence[Node]:
        """Return all servers that take writes."""

    def tags(self) -> Sequence[str]:
        """Return tags that put a key, each, on other servers: together on all that hold anything."""

    def follow(self, error: AskError, asked: Node) -> Node:
        """Return the server that a Cluster's redirection names. Raises: UnfitServer where none was expected."""

    def describe(self, node: Node | None) -> str:
        """Say of which Redis an error tells, and which settings name it."""

    async def close(self) -> None:
        """Close all connections."""


def unexpected_cluster(where: str) -> UnfitServer:
    """Return the error of a Cluster that the settings don't know of."""
    return UnfitServer(f"{where} is a node of a Redis Cluster: set REDIS_URL=redis+cluster://HOST:PORT,... instead")


def make_topology(settings: RedisSettings) -> Topology:
    """Return the one that the settings ask for. It connects when it is first used."""
    kinds: dict[Kind, Callable[[RedisSettings], Topology]] = {
        Kind.ONE: OneRedis,
        Kind.SENTINEL: SentinelMaster,
        Kind.CLUSTER: RedisCluster,
    }
    return kinds[settings.target().kind](settings)


class _OneServer:
    """What holds where one server has all keys."""

    devices_per_call = 50

    def tags(self) -> Sequence[str]:
        return ("devices",)

    def nodes(self) -> Sequence[Node]:
        return (self.node_of(""),)

    def follow(self, error: AskError, asked: Node) -> Node:
        raise unexpected_cluster(self.describe(asked)) from error

    def node_of(self, key: str | bytes) -> Node:
        raise NotImplementedError

    def describe(self, node: Node | None) -> str:
        raise NotImplementedError


class OneRedis(_OneServer):
    """A Redis at an address; whichever that is: a name or a proxy may lead to another one tomorrow."""

    def __init__(self, settings: RedisSettings) -> None:
        self._target = settings.target()
        self._node = Node(self._target.addresses[0], connection_options(settings), timeout_s=settings.timeout_s)

    async def prepare(self) -> None:
        """There is nothing to find out."""

    async def refresh(self) -> None:
        """There is nothing to find out."""

    def node_of(self, key: str | bytes) -> Node:  # noqa: ARG002 - the protocol's
        return self._node

    def describe(self, node: Node | None) -> str:  # noqa: ARG002 - there is but one
        return f"Redis at {self._target.addresses[0]} ({self._target.source})"

    async def close(self) -> None:
        await self._node.drop_connections()


class SentinelMaster(_OneServer):
    """The master that the sentinels name.

    They are asked every second: after a planned failover the old master takes writes for seconds, over connections that
    stay open, and forgets them when it becomes a replica.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._target = settings.target()
        self._settings = settings
        self._sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            self._target.addresses, sentinel_kwargs=sentinel_options(settings, _ASK_TIMEOUT_S)
        )
        self._node: Node | None = None
        self._watching: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()

    async def prepare(self) -> None:
        if self._node is None:
            await self._ask()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def refresh(self) -> None:
        with suppress(RedisError, OSError):
            await self._ask()

    async def _ask(self) -> None:
        async with self._asking:
            host, port = await self._sentinel.discover_master(self._target.master_name)
        address = Address(host, int(port))
        if self._node is not None and self._node.address == address:
            return
        old, self._node = (
            self._node,
            Node(address, connection_options(self._settings), timeout_s=self._settings.timeout_s),
        )
        if old is not None:
            _log.warning("the sentinels name another Redis master: %s, no longer %s", address, old.address)
            await old.drop_connections()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            await self.refresh()

    def node_of(self, key: str | bytes) -> Node:  # noqa: ARG002 - the protocol's
        assert self._node is not None  # noqa: S101 - `prepare` comes first
        return self._node

    def describe(self, node: Node | None) -> str:
        sentinels = ", ".join(map(str, self._target.addresses))
        of = f"master {self._target.master_name!r} of the sentinels {sentinels} (REDIS_URL)"
        return f"Redis: {of}" if node is None else f"Redis at {node.address}, {of}"

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self._node is not None:
            await self._node.drop_connections()
        await self._sentinel.aclose()
