"""What is asked of Redis at the start, once it answers: is it what the settings say, and fit for this?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from stream_cache.errors import StoreUnavailable
from stream_cache.store import keys
from stream_cache.store.connection import Connection
from stream_cache.store.errors import UnfitServer, cause_of, is_refused_for_good
from stream_cache.store.scripts import Call
from stream_cache.store.topology import unexpected_cluster

_OLDEST = (6, 2)


async def check_servers(connection: Connection, *, timeout_s: float) -> Sequence[str]:
    """Check each server, and the layout of what they hold; name the layout where nothing is held.

    What the user may not ask (INFO) is not judged.

    Returns: warnings, each a line that says what to set.
    Raises: UnfitServer where waiting won't help; StoreUnavailable where it may, of a replica too.
    """
    commands = [("INFO", "server"), ("INFO", "replication"), ("INFO", "memory")]
    try:
        found = await connection.ask_each(commands, timeout_s=timeout_s)
    except StoreUnavailable as error:
        if is_refused_for_good(error.__cause__):
            raise UnfitServer(str(error)) from error
        raise
    warnings = [
        warning
        for where, replies in found
        for warning in _judge(where, _info(where, replies), is_cluster=connection.devices_per_call == 1)
    ]
    await _check_layout(connection, timeout_s)
    return warnings


def _info(where: str, replies: Sequence[Any]) -> dict[str, str]:
    """Read the answers to INFO. Raises: StoreUnavailable where one is refused for want of a login."""
    info: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, Exception):
            if not isinstance(reply, NoPermissionError):
                raise StoreUnavailable(f"{where}: {cause_of(reply)}") from reply
            continue
        pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
        info |= {name: text for name, colon, text in pairs if colon}
    return info


def _judge(where: str, info: dict[str, str], *, is_cluster: bool) -> Sequence[str]:
    mode = info.get("redis_mode", "")
    if mode == "sentinel":
        raise UnfitServer(f"{where} is a sentinel: set REDIS_URL=redis+sentinel://HOST:PORT,.../MASTER instead")
    if mode == "cluster" and not is_cluster:
        raise unexpected_cluster(where)
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        raise UnfitServer(f"{where} is Redis {version}: it must be 6.2 or later")
    if info.get("role", "master") != "master":
        raise StoreUnavailable(f"{where}: it is a replica, which takes no writes")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return ()
    return (f"{where} may evict devices when its memory is full: set its maxmemory-policy to noeviction, not {policy}",)


async def _check_layout(connection: Connection, timeout_s: float) -> None:
    # Of a few devices, 0.1 had but one bucket, and no count of them.
    old_keys = (keys.OF_VERSION_0_1, f"{keys.OF_VERSION_0_1}:0")
    calls = [Call(key, ("EXISTS", key)) for key in old_keys]
    if any(await connection.run(calls, timeout_s=timeout_s)):
        raise UnfitServer(
            f"{connection.describe()} holds data of version 0.1 (the key {keys.OF_VERSION_0_1!r}): empty it "
            "and rebuild it, or choose another database"
        )
    layout = keys.LAYOUT
    calls = [Call(layout, ("SET", layout, keys.LAYOUT_VERSION, "NX")), Call(layout, ("GET", layout))]
    _, held = await connection.run(calls, timeout_s=timeout_s)
    if held != keys.LAYOUT_VERSION.encode():
        raise UnfitServer(
            f"{connection.describe()} holds data of layout {held!r}, this version reads {keys.LAYOUT_VERSION!r} "
            f"(the key {layout!r}): take the version that wrote it, or empty it and rebuild it"
        )
