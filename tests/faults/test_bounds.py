"""Workers with every setting at one end of its range: they start, do their work, and stop."""

from collections.abc import Mapping

import pytest

from stream_cache.environment import expected
from stream_cache.settings import VARIABLES, Settings
from tests import harness
from tests.faults.scene import Scene
from tests.harness import Api, wait_until

#: What stands for a place or a choice, so that there is no lower or upper end; and what the scene decides.
NO_BOUNDS = {
    *("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_VALIDATED_DATA_TOPIC", "KAFKA_ERROR_TOPIC", "REDIS_HOST", "REDIS_PORT"),
    *("REDIS_DB", "REDIS_PASSWORD", "WEB_BIND", "WEB_PORT", "WEB_TLS_CERT_FILE", "WEB_TLS_KEY_FILE"),
    *("REDIS_URL", "REDIS_USERNAME", "REDIS_TLS", "REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"),
    *("REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD"),
    *("REDIS_DURABILITY", "API_TOKEN", "HEALTH_NEEDS_TOKEN", "LOG_LEVEL"),
}
LOWEST = {
    "KAFKA_CONSUMER_GROUP_ID": "g",
    "KAFKA_GROUP_INSTANCE_ID": "i",
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": "0.01",
    "KAFKA_SESSION_TIMEOUT_S": "1",
    "KAFKA_METADATA_MAX_AGE_S": "0.5",
    "REDIS_METADATA_TTL": "0",
    "REDIS_TIMEOUT_S": "0.05",
    "PRUNE_INTERVAL_S": "0.1",
    "OFFLINE_AFTER_S": "0.001",
    "FLUSH_INTERVAL_S": "0.01",
    "COMMIT_INTERVAL_S": "0.05",
    "MAX_UNACKED_READINGS": "1",
    "MAX_CLOCK_SKEW_S": "0",
    "ERROR_ORIGINAL_MAX_BYTES": "0",
    "BULK_MAX_DEVICES": "1",
    "WEB_MAX_CONNECTIONS": "1",
    "WEB_KEEPALIVE_S": "1",
    "SHUTDOWN_TIMEOUT_S": "0.1",
    "STALL_TIMEOUT_S": "1",
    "STALL_EXIT_S": "1",
}
HIGHEST = {
    "KAFKA_CONSUMER_GROUP_ID": "g" * 249,
    "KAFKA_GROUP_INSTANCE_ID": "i" * 249,
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": "30",
    "KAFKA_SESSION_TIMEOUT_S": "300",
    "KAFKA_METADATA_MAX_AGE_S": "300",
    "REDIS_METADATA_TTL": "315360000",
    "REDIS_TIMEOUT_S": "60",
    "PRUNE_INTERVAL_S": "20",
    "OFFLINE_AFTER_S": "315360000",
    "FLUSH_INTERVAL_S": "60",
    "COMMIT_INTERVAL_S": "4",
    "MAX_UNACKED_READINGS": "10000000",
    "MAX_CLOCK_SKEW_S": "315360000",
    "ERROR_ORIGINAL_MAX_BYTES": "10485760",
    "BULK_MAX_DEVICES": "100000",
    "WEB_MAX_CONNECTIONS": "100000",
    "WEB_KEEPALIVE_S": "3600",
    "SHUTDOWN_TIMEOUT_S": "8",
    "STALL_TIMEOUT_S": "86400",
    "STALL_EXIT_S": "86400",
}


def test_table__names_every_setting_and_its_last_value_that_is_accepted() -> None:
    assert set(LOWEST) == set(HIGHEST) == {variable.name for variable in VARIABLES} - NO_BOUNDS
    Settings.from_env(LOWEST)
    Settings.from_env(HIGHEST)
    for variable in VARIABLES:
        _, is_number, bounds = expected(variable.kind).partition(" from ")
        if variable.name in LOWEST and is_number:
            assert bounds == f"{LOWEST[variable.name]} to {HIGHEST[variable.name]}"


@pytest.mark.parametrize("bounds", [LOWEST, HIGHEST], ids=["lowest", "highest"])
def test_worker__does_its_work_with_every_setting_at_its_end(scene: Scene, bounds: Mapping[str, str]) -> None:
    """A reading gets into Redis and is looked up, a bad record gets to `iot_errors`, and the end is in time."""
    worker = scene.add_worker(**bounds)
    worker.wait_ready(60)
    api = Api(worker)
    draft = next(scene.drafts(1))
    assert draft.key is not None
    device_id = draft.key.decode()
    harness.produce(
        scene.topics.bootstrap,
        scene.topics.source,
        [harness.Record(draft.value, draft.key, 0), harness.Record(b"not JSON", b"bad", 0)],
    )
    wait_until(lambda: api.one(device_id).status == 200, 40, "the reading to be looked up")
    wait_until(
        lambda: len(harness.consume_all(scene.topics.bootstrap, scene.topics.errors)) == 1, 40, "the error record"
    )
    assert api.bulk([device_id]).json["missing"] == []
    assert worker.terminate() == 0, worker.log_tail()
    assert "Traceback" not in worker.log_text()
    group = bounds["KAFKA_CONSUMER_GROUP_ID"]
    assert harness.committed_offsets(scene.topics.bootstrap, group, scene.topics.source)[0] == 2
