"""The error topic takes small batches only, or nothing for a while: each bad record arrives, whole where it can."""

import itertools
import json
from collections.abc import Iterator, Mapping

from confluent_kafka import Message

from tests import harness, readings
from tests.faults.scene import Scene, checks, metric
from tests.harness import wait_until

BAD_COUNT = 5_000
#: What a worker has besides the 128 MiB of records that it may hold: itself (75 MB), and copies on their way.
MOST_RSS_BYTES = 450_000_000


def bad_drafts(scene: Scene, sizes: Mapping[int, int], *, default: int) -> Iterator[readings.Draft]:
    """Draw bad records without end, the n-th of `sizes[n]` bytes, each with a request id of its own."""
    for number, draft in enumerate(scene.drafts(1)):
        body = {"request_id": f"bad-{number}", "timestamp": "yesterday", "filler": "x" * sizes.get(number, default)}
        yield draft._replace(value=json.dumps(body).encode())


def produce_bad(scene: Scene, count: int, sizes: Mapping[int, int] | None = None, *, default: int = 1_000) -> None:
    """Produce bad records, and some good ones for the watchers."""
    scene.ledger.produce(itertools.islice(bad_drafts(scene, sizes or {}, default=default), count))
    scene.ledger.produce(itertools.islice(scene.drafts(2), 100))


def errors(scene: Scene) -> list[Message]:
    return harness.consume_all(scene.topics.bootstrap, scene.topics.errors)


def test_topic_of_small_batches__gets_each_record_whole_under_its_key(scene: Scene) -> None:
    """A producer fills its batches with whatever waits: one of 1 MB is too large here, each record of 1 kB is not.

    Only the one of 100 kB, which is too large by itself, is cut.
    """
    scene.configure(scene.topics.errors, max_message_bytes="50000")
    produce_bad(scene, BAD_COUNT, {2_500: 100_000})
    scene.start_workers()
    scene.assert_nothing_lost()
    originals = {error.key(): json.loads(error.value() or b"")["original_message"] for error in errors(scene)}
    assert originals.keys() == {f"bad-{number}".encode() for number in range(BAD_COUNT)}
    assert [key for key, original in originals.items() if "truncated" in original] == [b"bad-2500"]


def test_topic_refuses_large_records__memory_is_bounded_and_all_arrive(scene: Scene) -> None:
    """They are few: not the number of records that wait bounds the memory, but their bytes."""
    scene.configure(scene.topics.errors, max_message_bytes="100")
    (worker,) = scene.start_workers()
    count = 1_000
    produce_bad(scene, count, default=200_000)
    taken = 'stream_cache_records_total{result="bad"}'
    before = -1.0

    def has_stopped() -> bool:
        nonlocal before
        last, before = before, metric(worker, taken)
        return 500 < last == before

    wait_until(has_stopped, 60, "consumption to wait", interval_s=2)
    assert before < count
    assert worker.rss_bytes() < MOST_RSS_BYTES
    assert worker.get("/health/live")[0] == 200
    assert scene.topics.errors in checks(worker)["error_topic"]
    scene.configure(scene.topics.errors, max_message_bytes="1000000")
    scene.assert_nothing_lost(120)
    cut = [error.key() for error in errors(scene) if b'"truncated":true' in (error.value() or b"")]
    assert len(cut) <= 1, "but the one that was just being tried when the topic began to take them"


def test_killed_between_publish_and_commit__publishes_again_and_loses_none(scene: Scene) -> None:
    (worker,) = scene.start_workers(COMMIT_INTERVAL_S="4")
    produce_bad(scene, 100)
    wait_until(lambda: len(errors(scene)) == 100, 30, "the error records", interval_s=0)
    worker.kill()
    assert scene.lag()
    worker.start()
    scene.assert_nothing_lost()
    assert len(errors(scene)) > 100
