"""Half of 100,000 records are bad: good ones stay fast, bad ones are published and counted, the log is short."""

import itertools
import json
import random
import re
import time
from datetime import UTC, datetime

from tests import readings
from tests.faults.scene import Scene, metric
from tests.harness import Worker, wait_until

COUNT, PER_SECOND = 100_000, 5_000
#: The longest that a good reading may take from Kafka into Redis.
FRESH_WITHIN_S = 2.0
MOST_LOG_LINES = 40
MOST_LINES_OF_COUNTS = 4


def seconds_until_seen(scene: Scene, device_id: str) -> float:
    """Produce one good reading of a new device, and tell how long after Kafka's ack Redis has it."""
    (template,) = itertools.islice(scene.drafts(99), 1)
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    value = json.dumps({**json.loads(template.value or b""), "device_id": device_id, "timestamp": now})
    scene.ledger.produce([template._replace(key=device_id.encode(), value=value.encode())])
    began_s = time.monotonic()
    with scene.database.connect() as client:
        wait_until(lambda: client.exists(f"device:{device_id}:metadata"), 30, device_id, interval_s=0.005)
    return time.monotonic() - began_s


def counts_logged(worker: Worker) -> list[int]:
    """Return what each line of the log says of how many bad records there were, and that its parts add up."""
    found = re.findall(r"(\d+) bad records were published to the error topic: (.*)", worker.log_text())
    for count, kinds in found:
        assert sum(map(int, re.findall(r"\d+", kinds))) == int(count)
    return [int(count) for count, _ in found]


def test_half_is_poison(scene: Scene) -> None:
    bad_values = list(readings.bad_samples().values())
    choose = random.Random(1)
    good = scene.drafts(1, devices=2_000, per_second=PER_SECOND // 2)
    mixed = itertools.chain.from_iterable((draft, draft._replace(value=choose.choice(bad_values))) for draft in good)
    (worker,) = scene.start_workers()
    line_count = len(worker.log_text().splitlines())
    ages_s: list[float] = []
    with scene.fed_with(mixed, PER_SECOND):
        deadline_s = time.monotonic() + COUNT / PER_SECOND
        while time.monotonic() < deadline_s:
            ages_s.append(seconds_until_seen(scene, f"probe-{len(ages_s)}"))
    scene.assert_nothing_lost()
    bad_count = len(scene.ledger.bad())
    assert bad_count > 0.4 * COUNT
    assert max(ages_s) < FRESH_WITHIN_S
    assert metric(worker, 'stream_cache_records_total{result="bad"}') == bad_count
    assert metric(worker, 'stream_cache_errors_total{kind="bad_record"}') == bad_count
    assert counts_logged(worker)  # the first line doesn't wait for the end
    lines = worker.log_text().splitlines()[line_count:]
    assert len(lines) < MOST_LOG_LINES, "\n".join(lines[-20:])
    assert worker.terminate() == 0
    counts = counts_logged(worker)
    assert sum(counts) == bad_count
    assert len(counts) <= MOST_LINES_OF_COUNTS
