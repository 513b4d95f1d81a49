"""Is Redis in the state that a workload must lead to?"""

import json
from collections.abc import Sequence
from typing import Any

from redis import Redis, RedisCluster

from bench.rows import Row, State
from bench.workload import METADATA_FIELDS, Expected, event_us, hash_key
from tests.waiting import wait_until


class WrongStateError(Exception):
    """A row is done, and Redis doesn't hold what it must: its figures count for nothing."""


def first_event_us(client: Redis | RedisCluster, device_ids: Sequence[str]) -> int:
    """Return the earliest of the devices' event times, 0 while one is absent."""
    texts = [client.hget(hash_key(device_id), "last_updated") for device_id in device_ids]
    return min(event_us(str(text)) if text else 0 for text in texts)


def is_final(client: Redis, sentinels: Sequence[str], sentinel_event_us: int) -> bool:
    """Has every sentinel's hash its final event time?"""
    pipeline = client.pipeline(transaction=False)
    for device_id in sentinels:
        pipeline.hget(hash_key(device_id), "last_updated")
    return all(text is not None and event_us(text) >= sentinel_event_us for text in pipeline.execute())


def check_final(client: Redis, row: Row, expected: Expected) -> None:
    """Hold Redis against the expected state: the number of devices, and the sampled ones field by field.

    What trails the hashes is waited for a few seconds: the service's index may (contract, section 2).

    Raises: WrongStateError with the first differences.
    """
    differences: list[str] = []

    def is_right() -> bool:
        differences[:] = _differences(client, row.state, expected)
        return not differences

    try:
        wait_until(is_right, 5, "the final state")
    except TimeoutError:
        raise WrongStateError(f"{row.name}: {len(differences)} differences: {differences[:5]}") from None


def _differences(client: Redis, state: State, expected: Expected) -> list[str]:
    if state == "nothing":
        return []
    by_event_time = state == "latest_hash"
    held_count, count = (
        (client.scard("devices"), expected.hash_count) if by_event_time else (client.dbsize(), expected.device_count)
    )
    differences = [] if held_count == count else [f"{held_count} devices, not {count}"]
    wanted = expected.latest if by_event_time else expected.last
    pipeline = client.pipeline(transaction=False)
    for device_id in wanted:
        (pipeline.get if state == "last_json" else pipeline.hgetall)(hash_key(device_id))
    for (device_id, reading), held in zip(wanted.items(), pipeline.execute(), strict=True):
        wrong = _wrong_fields(state, held, reading)
        if wrong:
            differences.append(f"{device_id}: {', '.join(wrong)} of {held} after {reading}")
    return differences


def _wrong_fields(state: State, held: Any, reading: dict[str, Any]) -> list[str]:
    if not held:
        return ["nothing"]
    if state == "last_json":
        return [] if json.loads(held) == reading else ["value"]
    wrong = [] if event_us(held["last_updated"]) == event_us(reading["timestamp"]) else ["last_updated"]
    metadata = {"persist": True, **(reading["metadata"] or {})}
    if state == "last_hash" and reading["metadata"] is None:
        return wrong  # which fields an event without metadata leaves depends on the ones before
    return wrong + [name for name in METADATA_FIELDS if not _is_text_of(held.get(name), metadata.get(name))]


def _is_text_of(text: str | None, value: Any) -> bool:
    """Is this the hash's text of a metadata value? A str as it is, null an absent field, anything else JSON."""
    if value is None or text is None:
        return value is text
    return text == value if isinstance(value, str) else bool(json.loads(text) == value)
