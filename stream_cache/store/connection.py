"""Calls to Redis, repeated where that helps, and in words where it doesn't.

Everything that the store does is a list of calls, each of which may be repeated. So one function runs them all, on
whatever the topology is: grouped by server, pipelined, servers side by side.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any, NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from stream_cache.errors import StoreUnavailable
from stream_cache.settings import RedisSettings
from stream_cache.store import scripts
from stream_cache.store.durability import Durability
from stream_cache.store.errors import cause_of, is_read_only, is_wrong_type
from stream_cache.store.node import Command, Lane, Node
from stream_cache.store.scripts import Call
from stream_cache.store.topology import Topology, make_topology
from stream_cache.waiting import WaitingLog

_log = logging.getLogger(__name__)
#: Whatever fails is tried again sooner, but a flush, which may take many times as long.
_CALM_S = 5.0

#: How often a call is repeated when a server doesn't answer. Longer outages are the caller's to ride out.
_RETRIES = 2
_PAUSE_FIRST_S, _PAUSE_LONGEST_S = 0.02, 0.2
#: A Cluster that changes sends a call to another server, perhaps to one more; beyond that it is in two minds.
_ROUNDS_WITHOUT_PAUSE = 3


class _Trouble(NamedTuple):
    """Why calls have no reply, and of which server."""

    node: Node
    error: Exception


class Connection:
    """Runs calls. Connects when it is first used."""

    def __init__(self, settings: RedisSettings) -> None:
        self._topology: Topology = make_topology(settings)
        self._durability = Durability(settings.durability, settings.timeout_s)
        self._outage = _Outage()
        self.devices_per_call = self._topology.devices_per_call

    async def write(self, calls: Sequence[Call], *, timeout_s: float) -> list[Any]:
        """Run calls as `run` does, until what they wrote is as durable as REDIS_DURABILITY wants it."""
        run = _Run(self._topology, calls, Lane.WRITE, self._durability)
        return list(await self._within(timeout_s, run.to_end(), run, is_flush=True))

    async def run(self, calls: Sequence[Call], *, timeout_s: float, lane: Lane = Lane.WRITE) -> list[Any]:
        """Run calls, and return their replies; WRONGTYPE alone is a reply as well, an exception among them.

        Not a transaction: where it raises, some of the calls may have been done, or are still being done.

        Raises: StoreUnavailable, within the time, whatever else went wrong; UnfitServer.
        """
        run = _Run(self._topology, calls, lane)
        return list(await self._within(timeout_s, run.to_end(), run))

    async def ask_each(self, commands: Sequence[Command], *, timeout_s: float) -> Sequence[tuple[str, list[Any]]]:
        """Run commands on each server that takes writes.

        Returns: for each, its description and the replies; what it refused is an exception among them.
        Raises: StoreUnavailable within the time.
        """

        async def ask() -> Sequence[tuple[str, list[Any]]]:
            await _Run(self._topology, (), Lane.WRITE).to_end()
            found = []
            for node in self._topology.nodes():
                try:
                    found.append((self._topology.describe(node), await node.pipeline(commands, Lane.WRITE)))
                except (RedisError, OSError) as error:
                    raise StoreUnavailable(f"{self._topology.describe(node)}: {cause_of(error)}") from error
            return found

        return list(await self._within(timeout_s, ask()))

    async def tags(self, *, timeout_s: float) -> Sequence[str]:
        """Return tags that put a key on each server that holds anything. Raises: StoreUnavailable within the time."""
        await self._within(timeout_s, _Run(self._topology, (), Lane.WRITE).to_end())
        return self._topology.tags()

    def describe(self) -> str:
        """Say which Redis it is, and which settings name it."""
        return self._topology.describe(None)

    async def close(self) -> None:
        """Close all connections."""
        await self._topology.close()

    async def _within(
        self, timeout_s: float, call: Coroutine[Any, Any, Any], run: _Run | None = None, *, is_flush: bool = False
    ) -> Any:
        """Await a call for so long, and say in the log when Redis is away, and when it is back.

        It runs in a task that the clock doesn't wait for: on Python 3.11 `asyncio.wait_for`, somewhere below, may
        swallow a cancellation (python/cpython#86296), and with it a time limit set around it.
        """
        task = asyncio.ensure_future(call)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
            if done:
                answer = task.result()
                self._outage.note_success(self.describe(), is_flush=is_flush)
                return answer
        except StoreUnavailable as error:
            self._outage.note_failure(str(error), is_flush=is_flush)
            raise
        finally:
            task.cancel()
        trouble = run and run.trouble
        reason = f"{trouble or self.describe()}{' and' if trouble else ':'} no answer within {timeout_s:g} s"
        self._outage.note_failure(reason, is_flush=is_flush)
        raise StoreUnavailable(reason)


class _Outage:
    """What the log says of a Redis that is away.

    It is over when nothing has failed for some time, and the flush that failed has succeeded: while some calls fail and
    others succeed, the log stays calm.
    """

    def __init__(self) -> None:
        self._log = WaitingLog(_log)
        self._failed_at = 0.0
        self._has_flush_failed = False

    def note_failure(self, reason: str, *, is_flush: bool) -> None:
        """Note that a call has failed."""
        self._failed_at = time.monotonic()
        self._has_flush_failed |= is_flush
        self._log.wait(f"{reason}; readings wait")

    def note_success(self, where: str, *, is_flush: bool) -> None:
        """Note that a call has succeeded."""
        if not self._log.waited_s:
            return
        self._has_flush_failed &= not is_flush
        if not self._has_flush_failed and time.monotonic() - self._failed_at > _CALM_S:
            self._log.end(f"{where}: all is well again")


class _Remedy(Enum):
    """What is to be done before calls are sent again."""

    NONE = 0  # it is done
    REFRESH = 1  # find out where things are
    WAIT = 2  # and wait a little: a Cluster is changing
    TRY_AGAIN = 3  # the same, a few times


class _Run:
    """One list of calls on its way. `trouble` says what keeps it from its end at the moment."""

    def __init__(
        self, topology: Topology, calls: Sequence[Call], lane: Lane, durability: Durability | None = None
    ) -> None:
        self._topology, self._calls, self._lane, self._durability = topology, calls, lane, durability
        self._replies: list[Any] = [None] * len(calls)
        #: What has no reply yet, and the server that a Cluster sends it to, this once.
        self._pending: dict[int, Node | None] = dict.fromkeys(range(len(calls)))
        self._failure_count = self._round_count = 0
        self.trouble = ""

    async def to_end(self) -> list[Any]:
        """Go on until each call has its reply. Raises: StoreUnavailable, UnfitServer."""
        try:
            await self._topology.prepare()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._topology.describe(None)}: {cause_of(error)}") from error
        while self._pending:
            groups: dict[tuple[Node, bool], list[int]] = defaultdict(list)
            for number, sent_to in self._pending.items():
                node = sent_to or self._topology.node_of(self._calls[number].key)
                groups[node, sent_to is not None].append(number)
            found = await asyncio.gather(
                *(self._pipeline(node, some, is_asking=is_asking) for (node, is_asking), some in groups.items())
            )
            if self._pending:
                await self._recover([trouble for troubles in found for trouble in troubles])
        return self._replies

    async def _pipeline(self, node: Node, numbers: Sequence[int], *, is_asking: bool) -> Sequence[_Trouble]:
        """Run some of the calls on a server. Returns: an example of each kind of trouble there was."""
        commands = [self._calls[number].command for number in numbers]
        behind = self._durability.commands(self._calls[numbers[0]].key) if self._durability else ()
        if is_asking:  # ASKING holds for the next command, on the same connection
            commands = [word for command in commands for word in (("ASKING",), command)]
            behind = (("ASKING",), *behind) if behind else ()
        try:
            replies = await node.pipeline([*commands, *behind], self._lane)
            if self._durability:
                self._durability.check(replies[len(commands) :])
        except (RedisError, OSError) as error:
            return [_Trouble(node, error)]
        replies = replies[: len(commands)]
        troubles: dict[type[Exception], _Trouble] = {}
        for number, reply in zip(numbers, replies[1::2] if is_asking else replies, strict=True):
            if not isinstance(reply, Exception) or is_wrong_type(reply):
                self._replies[number] = reply
                del self._pending[number]
                continue
            troubles[type(reply)] = _Trouble(node, reply)
            sent_to = self._topology.follow(reply, node) if isinstance(reply, AskError) else None
            self._pending[number] = None if isinstance(reply, MovedError) else sent_to
        return list(troubles.values())

    async def _recover(self, troubles: Sequence[_Trouble]) -> None:
        """Do what makes another try worth while. Raises: StoreUnavailable where nothing does."""
        remedies = {await self._recover_from(*trouble) for trouble in troubles}
        if _Remedy.TRY_AGAIN in remedies:
            self._failure_count += 1
            if self._failure_count > _RETRIES:
                raise StoreUnavailable(self.trouble) from troubles[-1].error
        if remedies != {_Remedy.NONE}:
            await self._topology.refresh()
        self._round_count += 1
        if remedies & {_Remedy.TRY_AGAIN, _Remedy.WAIT} or self._round_count > _ROUNDS_WITHOUT_PAUSE:
            longest_s = min(_PAUSE_LONGEST_S, _PAUSE_FIRST_S * 2**self._round_count)
            await asyncio.sleep(longest_s * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _recover_from(self, node: Node, error: Exception) -> _Remedy:
        self.trouble = f"{self._topology.describe(node)}: {cause_of(error)}"
        match error:
            case NoScriptError():
                await self._load_scripts(node)
                return _Remedy.NONE
            case MovedError():
                return _Remedy.REFRESH
            case AskError():
                return _Remedy.NONE
            case TryAgainError() | ClusterDownError() | MasterDownError():
                return _Remedy.WAIT
            case _ if is_read_only(error):  # another server has become the master, perhaps behind this very address
                await node.drop_connections()
                return _Remedy.TRY_AGAIN
            case ResponseError():
                raise StoreUnavailable(self.trouble) from error
            case _:
                return _Remedy.TRY_AGAIN

    async def _load_scripts(self, node: Node) -> None:
        commands: list[Command] = [("SCRIPT", "LOAD", script.source) for script in scripts.ALL]
        for reply in await node.pipeline(commands, self._lane):
            if isinstance(reply, Exception):
                raise StoreUnavailable(f"{self._topology.describe(node)}: {cause_of(reply)}") from reply
