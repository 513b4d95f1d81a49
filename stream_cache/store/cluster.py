"""Which master of a Redis Cluster holds a key; for topology.py alone."""

# ruff: noqa: D102 - the protocol, in topology.py, says what its methods do

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from stream_cache.redis_target import Address
from stream_cache.settings import RedisSettings
from stream_cache.store.errors import UnfitServer
from stream_cache.store.node import Lane, Node, connection_options

_SLOTS = 16384
#: A Cluster's state is kept once for so many slots: a master that comes back empty has lost one, at least.
_SLOTS_PER_STATE = 256
#: How long a node may take to say which slots are where.
_ASK_TIMEOUT_S = 1.0


class RedisCluster:
    """The masters of a Cluster, by slot.

    Why not redis-py's own cluster client: its pipelines take four times as long (see node.py), its pools raise
    instead of waiting, and it gives up an ASK in a pipeline of an even number of connections (redis-py 8.1).
    """

    devices_per_call = 1

    def __init__(self, settings: RedisSettings) -> None:
        self._target = settings.target()
        self._settings = settings
        self._nodes: dict[Address, Node] = {}
        self._masters: list[Node] = []
        self._node_of_slot: list[Node | None] = [None] * _SLOTS
        self._asking = asyncio.Lock()
        self._refresh_count = 0

    async def prepare(self) -> None:
        if not self._masters:
            await self._ask()

    async def refresh(self) -> None:
        with suppress(RedisError, OSError):
            await self._ask()

    async def _ask(self) -> None:
        count = self._refresh_count
        async with self._asking:
            if count != self._refresh_count:
                return  # somebody has asked, while we waited to
            known = [*self._nodes, *(seed for seed in self._target.addresses if seed not in self._nodes)]
            random.shuffle(known)
            troubles: list[Exception] = []
            for address in known:
                try:
                    self._take_over(address, await self._slots_by(address))
                except (RedisError, OSError) as error:
                    troubles.append(error)
                else:
                    break
            else:
                raise troubles[-1]
            self._refresh_count += 1
        named = set(self._masters)
        for address in [address for address, node in self._nodes.items() if node not in named]:
            await self._nodes.pop(address).drop_connections()

    async def _slots_by(self, address: Address) -> list[Any]:
        node = self._node_at(address)
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                (slots,) = await node.pipeline([("CLUSTER", "SLOTS")], Lane.READ)
        except TimeoutError:
            raise OSError(f"{address} does not answer CLUSTER SLOTS within {_ASK_TIMEOUT_S:g} s") from None
        if isinstance(slots, Exception):
            if "cluster support disabled" in str(slots):
                raise UnfitServer(
                    f"{self.describe(node)} is not a Redis Cluster: set REDIS_URL=redis://HOST:PORT"
                ) from slots
            raise slots
        if not slots:
            raise OSError(f"{address} knows of no slots")
        return list(slots)

    def _take_over(self, asked: Address, ranges: Iterable[Any]) -> None:
        """Take over what CLUSTER SLOTS answers: [[first slot, last slot, [host, port, ...] of the master], ...]."""
        node_of_slot: list[Node | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # A node that doesn't know its own name leaves it out: it is where it was asked.
            node = self._node_at(Address(host.decode() if host else asked.host, port))
            node_of_slot[first : last + 1] = [node] * (last + 1 - first)
        self._node_of_slot = node_of_slot
        self._masters = list(dict.fromkeys(node for node in node_of_slot if node is not None))

    def _node_at(self, address: Address) -> Node:
        if address not in self._nodes:
            options = connection_options(self._settings)
            self._nodes[address] = Node(address, options, timeout_s=self._settings.timeout_s)
        return self._nodes[address]

    def follow(self, error: AskError, asked: Node) -> Node:
        """Return the node that a redirection names, and remember it where it is for good."""
        node = self._node_at(Address(error.host or asked.address.host, int(error.port)))
        if isinstance(error, MovedError):
            self._node_of_slot[error.slot_id] = node
            if node not in self._masters:
                self._masters.append(node)
        return node

    def node_of(self, key: str | bytes) -> Node:
        node = self._node_of_slot[key_slot(key if isinstance(key, bytes) else key.encode())]
        return node or random.choice(self._masters)  # noqa: S311 - it says CLUSTERDOWN, or where the slot has gone

    def nodes(self) -> Sequence[Node]:
        return tuple(self._masters)

    def tags(self) -> Sequence[str]:
        return _state_tags()

    def describe(self, node: Node | None) -> str:
        where = ", ".join(map(str, self._target.addresses)) if node is None else str(node.address)
        return f"Redis Cluster at {where} (REDIS_URL)"

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.drop_connections()


@functools.cache
def _state_tags() -> Sequence[str]:
    return tuple(_tag_in(range(first, first + _SLOTS_PER_STATE)) for first in range(0, _SLOTS, _SLOTS_PER_STATE))


def _tag_in(slots: Container[int]) -> str:
    """Return the smallest number whose text, as a hash tag, lies in one of these slots."""
    return next(tag for tag in map(str, itertools.count()) if key_slot(tag.encode()) in slots)
