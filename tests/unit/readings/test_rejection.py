"""What an error record says of a bad record (section 3): valid JSON, whatever the bad record holds."""

import base64
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cache.errors import BadRecord
from stream_cache.readings.reading import Record
from stream_cache.readings.rejection import Rejection
from stream_cache.readings.times import format_time
from tests import readings, strategies
from tests.fakes import NOW_MS, FakeRecord, decode_all

OBJECT = b'{"request_id": "r-1", "timestamp": "yesterday", "device_id": "d", "values": [1]}'


def refused(value: bytes | None, key: bytes | None = b"d") -> tuple[Record, BadRecord]:
    """Decode a bad record."""
    ((record, bad),) = decode_all([FakeRecord(2, 7, NOW_MS, key, value)]).bad
    return record, bad


class Sent:
    """An error record as its reader sees it."""

    def __init__(self, item: tuple[Record, BadRecord], original_max_bytes: int = 262_144) -> None:
        error_record = Rejection.of(*item).encode("iot_validated_data", original_max_bytes)
        self.key, self.headers = error_record.key, error_record.headers
        self.said: dict[str, Any] = json.loads(error_record.value, parse_constant=pytest.fail)


def test_error_record__has_the_contracts_fields_key_and_headers() -> None:
    sent = Sent(refused(OBJECT))
    said = sent.said
    assert list(said) == ["request_id", "timestamp", "service", "error", "original_message"]
    assert said["request_id"] == "r-1"
    assert said["service"] == "cache_service"
    assert "timestamp: 'yesterday'" in said["error"]
    assert said["original_message"] == json.loads(OBJECT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", said["timestamp"])
    assert sent.key == b"r-1"
    assert sent.headers == [
        ("source.topic", b"iot_validated_data"),
        ("source.partition", b"2"),
        ("source.offset", b"7"),
        ("source.timestamp", str(NOW_MS).encode()),
        ("error.type", b"bad_timestamp"),
    ]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        *((v, b"d") for v in (b"", b"temperature=21.4", b"\xff\xfe", b"[]", b"null", b'"x"', b"7", OBJECT[:-1])),
        *((None, key) for key in readings.BAD_TOMBSTONE_KEYS),
    ],
)
def test_original__that_is_no_object_is_base64(value: bytes | None, key: bytes | None) -> None:
    sent = Sent(refused(value, key))
    assert sent.said["original_message"] == {"base64": base64.b64encode(value or b"").decode()}
    assert (sent.said["request_id"], sent.key) == (None, None)


@pytest.mark.parametrize(
    ("text", "request_id", "key"),
    [
        *((text, None, None) for text in ("null", "7", "[1]")),
        ('""', "", b""),
        (json.dumps("é/\x00 🌡"), "é/\x00 🌡", "é/\x00 🌡".encode()),
        ('"a\\ud800b"', "a\ud800b", b"a\\ud800b"),
    ],
)
def test_request_id__is_any_string_or_null(text: str, request_id: str | None, key: bytes | None) -> None:
    """Half of a surrogate pair too, which UTF-8 can't say: the key has its escape."""
    value = f'{{"request_id":{text},"timestamp":"x","device_id":"d","values":[]}}'.encode()
    sent = Sent(refused(value))
    assert (sent.said["request_id"], sent.key) == (request_id, key)
    assert sent.said["original_message"] == json.loads(value)


@pytest.mark.parametrize(("size", "is_whole"), [(100, True), (101, False), (5000, False)])
def test_original__beyond_the_limit_is_its_first_bytes(size: int, *, is_whole: bool) -> None:
    value = OBJECT + b" " * (size - len(OBJECT))
    original = Sent(refused(value), 100).said["original_message"]
    if is_whole:
        assert original == json.loads(OBJECT)
    else:
        first = base64.b64encode(value[:100]).decode()
        assert original == {"base64": first, "truncated": True, "size_bytes": size}


@given(
    strategies.bad_values() | st.binary(max_size=50) | st.just(OBJECT) | st.none(),
    st.sampled_from([0, 40, 262_144]),
    st.sampled_from(["internal_error", "wrong_type", "not_json"]),
    st.text(max_size=20) | st.text(alphabet='a\ud800\U0001f321\0"'),
)
def test_any_value_kind_and_text__makes_valid_json(
    held: bytes | None, original_max_bytes: int, kind: str, text: str
) -> None:
    """Whatever was said of the value: a fault of the service may stop it before it knows whether it is JSON.

    A tombstone too, whose key in Redis may hold something that is no hash.
    """
    said = Sent((Record(0, 0, NOW_MS, None, held), BadRecord(kind, text, text)), original_max_bytes).said
    value = held or b""
    original = said["original_message"]
    assert (said["error"], said["request_id"]) == (text, text)
    if len(value) > original_max_bytes:
        assert (original["truncated"], original["size_bytes"]) == (True, len(value))
        assert base64.b64decode(original["base64"]) == value[:original_max_bytes]
    elif set(original) == {"base64"}:
        assert base64.b64decode(original["base64"]) == value
        assert not is_json_object(value)
    else:
        assert json.dumps(original) == json.dumps(json.loads(value))


def is_json_object(value: bytes) -> bool:
    try:
        return isinstance(json.loads(value.decode(), parse_constant=int, parse_int=str), dict)
    except (ValueError, RecursionError):
        return False


def test_timestamp__is_when_it_was_refused() -> None:
    """Not when it was sent, which may be hours later."""
    before = datetime.now(UTC).replace(tzinfo=None)
    item = refused(OBJECT)
    after = datetime.now(UTC).replace(tzinfo=None)
    time.sleep(0.001)
    assert format_time(before) <= Sent(item).said["timestamp"] <= format_time(after)
