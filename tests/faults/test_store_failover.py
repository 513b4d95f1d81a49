"""The store while masters are killed, frozen and replaced, and slots move: under load, by the ordering rule."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from stream_cache.store import keys
from tests.faults.proxy import Proxy
from tests.faults.store_load import Load, Report
from tests.services import RedisServer
from tests.services.redis_kinds import ClusterKind, RedisKind, RunningKind, SentinelKind, connect, execute
from tests.waiting import wait_until_async

ON_AGAIN_WITHIN_S = 10.0
#: How long before a failover lies, at most, what Redis may have acknowledged and lost; and all the time after it, until
#: the clients hear of the new master: one that is cut off or deposed goes on.
LOST_BEFORE_S = 3.0


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelKind]:
    kind = SentinelKind(tmp_path)
    yield kind
    kind.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterKind]:
    with ClusterKind(tmp_path) as kind:
        yield kind


async def _check(load: Load, report: Report, *, may_lose_from_s: float | None = None) -> None:
    """Hold what was seen against the promises."""
    lost = await load.lost()
    print(
        f"{len(report.acked)} devices, longest put {report.longest_put_s:.2f} s, {report.failed_put_count} failed; "
        f"{report.lookup_count} looks, {report.unavailable_count} unavailable; lost by Redis: {len(lost)}"
    )
    assert report.wrong_answers == []
    assert report.slow_answers == []
    assert report.longest_put_s < ON_AGAIN_WITHIN_S
    assert len(report.acked) == len(load.names)
    if may_lose_from_s is None:
        assert lost == {}
        assert report.backwards == []
    else:
        # Redis itself forgot it: acknowledged shortly before the failover, or while the old master still answered.
        ages_s = [may_lose_from_s - report.acked_at[name, acked] for name, (_, acked) in lost.items()]
        assert all(age_s < LOST_BEFORE_S for age_s in ages_s), ages_s
    await _check_index(load)


async def _check_index(load: Load) -> None:
    """The index may trail; what the scan puts right is right then."""
    _, position = await load.store.pruning.scan(keys.IDS, b"")
    while position:
        _, position = await load.store.pruning.scan(keys.IDS, position)
    page = await load.store.list_devices(1000, None)
    found = await load.store.get_many(load.names)
    assert page.device_ids == sorted(device.device_id for device in found if device)


def _run(
    kind: RedisKind, trouble: Callable[[Load], Awaitable[None]], *, may_lose: bool = False, **environ: str
) -> None:
    async def run() -> None:
        load = Load(kind, REDIS_TIMEOUT_S="1", **environ)
        failed_at_s = 0.0

        async def note() -> None:
            nonlocal failed_at_s
            failed_at_s = time.monotonic()
            await trouble(load)

        try:
            report = await load.run(note)
            await _check(load, report, may_lose_from_s=failed_at_s if may_lose else None)
        finally:
            await load.close()

    asyncio.run(run())


async def _until_written(load: Load) -> None:
    """Wait until puts get through again."""
    count = len(load.report.acked_at)
    await wait_until_async(lambda: len(load.report.acked_at) > count + 1000, 20, "puts to go on")


# ------------------------------------------------------------------------------------------------------- Sentinel


def test_sentinels_master_killed__goes_on_with_the_next_one(sentinels: SentinelKind) -> None:
    async def kill(load: Load) -> None:
        sentinels.master().kill()
        await _until_written(load)

    _run(sentinels, kill, may_lose=True)


def test_sentinels_master_frozen__goes_on_with_the_next_one_and_stays_there(sentinels: SentinelKind) -> None:
    async def freeze(load: Load) -> None:
        frozen = sentinels.master()
        frozen.freeze()
        try:
            await _until_written(load)
        finally:
            frozen.thaw()
        await _until_written(load)

    _run(sentinels, freeze, may_lose=True)


def test_planned_failover__puts_go_to_the_new_master_at_once(sentinels: SentinelKind) -> None:
    async def fail_over(load: Load) -> None:
        old = sentinels.master()
        with sentinels.sentinels[0].connect() as client:
            execute(client, "SENTINEL", "FAILOVER", "main")
        await wait_until_async(lambda: sentinels.master() is not old, 20, "another master")
        await _until_written(load)

    _run(sentinels, fail_over, may_lose=True)


def test_master_killed_with_durability__nothing_acknowledged_is_lost(sentinels: SentinelKind) -> None:
    async def kill(load: Load) -> None:
        sentinels.master().kill()
        await _until_written(load)

    _run(sentinels, kill, REDIS_DURABILITY="replica")


def test_another_sentinel_answers__when_the_first_is_frozen(sentinels: SentinelKind) -> None:
    async def freeze(load: Load) -> None:
        sentinels.sentinels[0].freeze()
        sentinels.master().kill()
        try:
            await _until_written(load)
        finally:
            sentinels.sentinels[0].thaw()

    _run(sentinels, freeze, may_lose=True)


def test_master_moves_behind_its_address__is_followed_without_a_restart(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "a") as old, RedisServer(tmp_path / "b") as new, Proxy(old.port) as proxy:
        with connect(new.port) as client:
            client.replicaof("127.0.0.1", str(old.port))

        async def move(load: Load) -> None:
            with connect(new.port) as to, connect(old.port) as back:
                await wait_until_async(lambda: to.info("replication")["master_link_status"] == "up", 20, "the replica")
                proxy.move_to(new.port)
                to.replicaof("NO", "ONE")
                back.replicaof("127.0.0.1", str(new.port))
            await _until_written(load)

        _run(RunningKind({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(proxy.port)}), move, may_lose=True)


# -------------------------------------------------------------------------------------------------------- Cluster

_SLOT_OF_INDEX = key_slot(b"devices")


def test_clusters_master_killed__goes_on_with_its_replica(cluster: ClusterKind) -> None:
    async def kill(load: Load) -> None:
        cluster.owner(_SLOT_OF_INDEX).kill()
        await _until_written(load)

    _run(cluster, kill, may_lose=True)


def test_clusters_master_killed_with_durability__nothing_acknowledged_is_lost(cluster: ClusterKind) -> None:
    """What a shard's only replica must have is not acknowledged while the shard has none."""

    async def kill(load: Load) -> None:
        killed = cluster.owner(_SLOT_OF_INDEX)
        killed.kill()
        await wait_until_async(lambda: len(cluster.master_servers()) == 3, 20, "the replica to take over")
        assert await load.store.get_many(load.names[:1])
        await asyncio.to_thread(killed.start)  # as the replica that the new master lacks
        await _until_written(load)

    _run(cluster, kill, REDIS_DURABILITY="replica")


def test_clusters_master_frozen__goes_on_with_its_replica(cluster: ClusterKind) -> None:
    async def freeze(load: Load) -> None:
        frozen = cluster.owner(_SLOT_OF_INDEX)
        frozen.freeze()
        try:
            await _until_written(load)
        finally:
            frozen.thaw()
        await _until_written(load)

    _run(cluster, freeze, may_lose=True)


async def _migrate(cluster: ClusterKind, load: Load, slots: list[int], to: RedisServer) -> None:
    for slot in slots:
        if cluster.owner(slot) is not to:
            await asyncio.to_thread(cluster.migrate_slot, slot, to, keys_at_once=1, between=lambda: time.sleep(0.1))
    await _until_written(load)


@pytest.mark.parametrize("what", ["of live devices", "of the index"])
def test_slot_migrates__nothing_is_lost_or_seen_to_go_back(cluster: ClusterKind, what: str) -> None:
    async def migrate(load: Load) -> None:
        of_devices = [key_slot(f"device:{name}:metadata".encode()) for name in load.names[:12]]
        slots = of_devices if what == "of live devices" else [_SLOT_OF_INDEX]
        target = next(server for server in cluster.master_servers() if server is not cluster.owner(slots[0]))
        await _migrate(cluster, load, slots, target)

    _run(cluster, migrate)


def test_node_added__takes_its_slots_over_under_load(cluster: ClusterKind) -> None:
    async def add(load: Load) -> None:
        new = cluster.new_server(len(cluster.servers))
        await asyncio.to_thread(new.start)
        await asyncio.to_thread(cluster.join, new)
        slots = sorted({key_slot(f"device:{name}:metadata".encode()) for name in load.names[:12]})
        await _migrate(cluster, load, slots, new)
        assert connect(new.port).dbsize()

    _run(cluster, add)


def test_one_master_comes_back_empty__is_noticed(cluster: ClusterKind) -> None:
    """The others still have their words."""

    async def lose(load: Load) -> None:
        assert await load.store.get_state() == "ok"
        with connect(cluster.master_servers()[1].port) as client:
            client.flushall()
        assert await load.store.get_state() is None

    async def run() -> None:
        load = Load(cluster)
        try:
            await load.run(lambda: lose(load), after_s=0.5)
        finally:
            await load.close()

    asyncio.run(run())
