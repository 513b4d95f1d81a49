"""Workers come and go, partitions and topics too, while readings keep coming."""

import itertools

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests import harness
from tests.faults.scene import Scene, wait_ready_or_gone
from tests.harness import wait_until

REBALANCE_WITHIN_S = 10
#: Of the first of two workers: its start, its going on without the id, and a rebalance that this one may begin.
MOST_REBALANCES = 4
#: A static member that is back within its session gets its partitions back without a rebalance.
PATIENT = {"KAFKA_SESSION_TIMEOUT_S": "30"}


def wait_all_ready(scene: Scene) -> None:
    """Wait until the group is settled: each worker that runs is a member, and none is rebalancing."""
    running = [worker for worker in scene.workers if worker.is_running]
    wait_until(
        lambda: not any(worker.what_lacks() for worker in running), REBALANCE_WITHIN_S, "the rebalance to be over"
    )


def test_one_three_two_one__under_load(scene: Scene) -> None:
    """Windows are half full at each rebalance: they are flushed, and what isn't is read again."""
    scene.start_workers()
    with scene.fed():
        scene.wait_committed(30_000)
        for worker in scene.start_workers(2):
            assert worker.is_running
        wait_all_ready(scene)
        scene.wait_committed(30_000)
        for leaver in scene.workers[:2]:
            assert leaver.terminate() == 0, leaver.log_tail()
            scene.look()
            wait_all_ready(scene)
            scene.wait_committed(30_000)
    scene.assert_nothing_lost()


def test_join_amid_a_backlog(scene: Scene) -> None:
    """Three workers join one after the other while the windows are as full as they get."""
    scene.ledger.produce(itertools.islice(scene.drafts(4), 400_000))
    for _ in range(3):
        scene.start_workers(FLUSH_INTERVAL_S="5")
        scene.look()
    scene.assert_nothing_lost()


def test_two_workers_with_one_static_id__share_the_work_and_say_so(scene: Scene) -> None:
    """A slip of an operator's: the broker gives the id to whoever came last. The other doesn't fight for it."""
    (first,) = scene.start_workers(KAFKA_GROUP_INSTANCE_ID="same", LOG_LEVEL="DEBUG")  # shows each rebalance
    with scene.fed():
        scene.wait_committed(30_000)
        scene.add_worker(KAFKA_GROUP_INSTANCE_ID="same")
        scene.wait_logged("another worker has taken KAFKA_GROUP_INSTANCE_ID 'same'", by=[first])
        wait_all_ready(scene)
        assert all(worker.is_running for worker in scene.workers)
        scene.look()
        scene.wait_committed(60_000)
        wait_all_ready(scene)
    scene.assert_nothing_lost()
    rejoined = first.log_text().count("Revoking previously assigned partitions")
    assert rejoined <= MOST_REBALANCES, "the two fight for the id"


def test_two_workers_with_one_static_id_at_once__nothing_is_lost(scene: Scene) -> None:
    """Started in the same moment: whoever the broker fences while it joins goes on, or exits to be started again."""
    workers = [scene.add_worker(KAFKA_GROUP_INSTANCE_ID="same") for _ in range(2)]
    with scene.fed():
        for worker in workers:
            wait_ready_or_gone(worker)
            assert worker.is_running or worker.exit_code == 1
        assert any(worker.is_running for worker in workers)
        scene.wait_committed(60_000)
    scene.assert_nothing_lost()


def test_static_id__comes_back_without_a_rebalance(scene: Scene) -> None:
    """What static membership is for: the one that returns in time takes up its partitions."""
    steady, mover = (
        scene.start_workers(KAFKA_GROUP_INSTANCE_ID="a", **PATIENT)[0],
        scene.add_worker(KAFKA_GROUP_INSTANCE_ID="b", **PATIENT),
    )
    mover.wait_ready()
    with scene.fed():
        scene.wait_committed(30_000)
        mover.kill()
        mover.start()
        mover.wait_ready()
        scene.wait_committed(60_000)
    assert steady.is_running
    scene.assert_nothing_lost()


def test_static_id__comes_back_at_another_address(scene: Scene) -> None:
    """As a container does that was created anew: same id, other host name and port. It must get its work back."""
    scene.start_workers(KAFKA_GROUP_INSTANCE_ID="a", **PATIENT)
    mover = scene.add_worker(KAFKA_GROUP_INSTANCE_ID="b", **PATIENT)
    mover.wait_ready()
    with scene.fed():
        scene.wait_committed(30_000)
        mover.kill()
        reborn = scene.add_worker(KAFKA_GROUP_INSTANCE_ID="b", **PATIENT)
        wait_ready_or_gone(reborn)
        assert reborn.is_running
        scene.wait_committed(60_000)
    scene.assert_nothing_lost()


def test_partitions_added__are_read_from_their_first_record(scene: Scene) -> None:
    scene.start_workers(2)
    with scene.fed(seed=1):
        scene.wait_committed(30_000)
        admin = AdminClient({"bootstrap.servers": scene.topics.bootstrap})
        for added in admin.create_partitions([NewPartitions(scene.topics.source, 8)]).values():
            added.result(10)
    scene.partitions = 8
    with scene.fed(seed=2):
        scene.wait_committed(30_000)
    committed = harness.committed_offsets(scene.topics.bootstrap, scene.topics.group, scene.topics.source)
    assert len(committed) == 8
    scene.assert_nothing_lost()


@pytest.mark.parametrize("is_filled_at_once", [False, True], ids=["empty", "filled at once"])
def test_topic_deleted_and_created_again__is_read_from_its_first_record(
    scene: Scene, *, is_filled_at_once: bool
) -> None:
    """Offsets begin anew: what the workers knew of the old topic says nothing of the new one."""
    scene.start_workers(2)
    with scene.fed(seed=1):
        scene.wait_committed(30_000)
    scene.assert_nothing_lost()
    harness.delete_topics(scene.topics.bootstrap, [scene.topics.source])
    if not is_filled_at_once:
        scene.wait_logged("does not exist", by=scene.workers)
    harness.create_topics(scene.topics.bootstrap, {scene.topics.source: scene.partitions})
    scene.ledger.produce(itertools.islice(scene.drafts(2), 100_000))
    scene.wait_caught_up()
    scene.assert_equal_to_oracle()
    scene.assert_never_wrong()
