"""Workers die and freeze at any moment: nothing is lost, and no device is seen going back."""

import itertools
import random
import time

import pytest

from tests.faults.scene import SESSION_TIMEOUT_S, Scene

BACKLOG = 400_000
KILLS = 8


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again__under_12_000_readings_a_second(scene: Scene, seed: int) -> None:
    moments = random.Random(seed)
    scene.start_workers(2)
    with scene.fed(seed=seed):
        for _ in range(KILLS):
            time.sleep(moments.uniform(1, 5))
            victim = moments.choice(scene.workers)
            victim.kill()
            scene.look()
            time.sleep(moments.choice((0.0, 1.0, SESSION_TIMEOUT_S + 1.0)))
            victim.start()
    scene.assert_nothing_lost()


def test_killed_again_and_again__amid_a_backlog(scene: Scene) -> None:
    moments = random.Random(3)
    scene.ledger.produce(itertools.islice(scene.drafts(3), BACKLOG))
    scene.start_workers(2)
    for kill_number in range(KILLS):
        time.sleep(moments.uniform(0.2, 1.5))
        victim = scene.workers[kill_number % 2]
        victim.kill()
        scene.look()
        victim.start()
        victim.wait_ready()
    scene.assert_nothing_lost()


def test_zombie__turns_nothing_back_and_rejoins(scene: Scene) -> None:
    """Frozen with readings in its hands for longer than its session; the other took over and wrote newer ones."""
    zombie, heir = scene.start_workers(2)
    with scene.fed():
        for _ in range(3):
            scene.wait_committed(20_000)
            zombie.freeze()
            time.sleep(SESSION_TIMEOUT_S + 1)
            scene.wait_committed(60_000)  # of all partitions, so the heir has the zombie's
            scene.look()
            zombie.thaw()
            zombie.wait_ready()
    assert heir.is_running
    scene.assert_nothing_lost()
