"""The independent oracle: what the contract says must become of records, in the plainest Python.

It shares no code with the package, and prefers being obviously right to being fast. `judge` is the contract's section
1, `fold` its section 2, `public` the object of its section 4; `assert_equal_to_redis` holds a real Redis against a
`State`.

Where the contract leaves room, the reading taken here is said beside the code, after the word "Reading taken".
"""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    import redis

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 1, 1, tzinfo=UTC)
NO_TIMESTAMP = -1
KEPT_OF_METADATA = ("datatype_id", "datatype_name", "datatype_unit", "persist")
MAX_INT_DIGITS = 4300  # beyond it int() refuses (sys.int_info.default_max_str_digits)

Order: TypeAlias = tuple[int, int, int]
"""Event time (µs since 1970), Kafka offset, partition: the greatest wins."""


@dataclass(frozen=True)
class Record:
    """What Kafka holds; `value` None is a tombstone, `timestamp_ms` -1 no timestamp."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Reading:
    """A good record with a value. `metadata` None takes no part in the order."""

    record: Record
    device_id: str
    event_us: int
    request_id: str
    index: str
    metadata: dict[str, Any] | None

    @property
    def order(self) -> Order:
        return self.event_us, self.record.offset, self.record.partition

    @property
    def record_ms(self) -> int:
        """From when the TTL counts."""
        return self.event_us // 1000 if self.record.timestamp_ms == NO_TIMESTAMP else self.record.timestamp_ms

    @property
    def texts(self) -> dict[str, str]:
        """The JSON text of each member of `metadata`, exactly as it came."""
        value = (self.record.value or b"").decode()
        return {} if self.metadata is None else member_texts(member_texts(value)["metadata"])


@dataclass(frozen=True)
class Tombstone:
    """A good record without a value: an event at its Kafka timestamp."""

    record: Record
    device_id: str

    @property
    def order(self) -> Order:
        return self.record.timestamp_ms * 1000, self.record.offset, self.record.partition

    @property
    def record_ms(self) -> int:
        """From when the TTL counts."""
        return self.record.timestamp_ms


@dataclass(frozen=True)
class Bad:
    """A record that belongs into `iot_errors`; `why` is for people, no wording of the contract."""

    record: Record
    why: str


class _BadRecordError(Exception):
    """Says why `judge` refuses."""


def judge(record: Record, *, max_clock_skew_s: int = 3600) -> Reading | Tombstone | Bad:
    """Tell what a record is, by section 1's list of what makes one bad and nothing else."""
    try:
        if record.value is None:
            return _judge_tombstone(record)
        return _judge_value(record, record.value, max_clock_skew_s)
    except _BadRecordError as refusal:
        return Bad(record, str(refusal))


def _judge_tombstone(record: Record) -> Tombstone:
    if record.timestamp_ms == NO_TIMESTAMP:
        raise _BadRecordError("tombstone without a Kafka timestamp")
    return Tombstone(record, _device_id_of_key(record.key))


def _device_id_of_key(key: bytes | None) -> str:
    if not key:
        raise _BadRecordError("tombstone without a key")
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadRecordError("tombstone whose key is not UTF-8") from error


def _judge_value(record: Record, value: bytes, max_clock_skew_s: int) -> Reading:
    fields = parse_object(value)
    for name, wanted in (("request_id", str), ("timestamp", str), ("device_id", str), ("values", list)):
        if name not in fields:
            raise _BadRecordError(f"{name} is missing")
        if not isinstance(fields[name], wanted):
            raise _BadRecordError(f"{name} is no {wanted.__name__}")
    device_id = fields["device_id"]
    if device_id == "":
        raise _BadRecordError("device_id is empty")
    if has_lone_surrogate(device_id):
        raise _BadRecordError("device_id has no UTF-8 form")
    index = fields.get("index")
    if not isinstance(index, str | None):
        raise _BadRecordError("index is neither str nor null")
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict | None):
        raise _BadRecordError("metadata is neither object nor null")
    event_us = _event_us(fields["timestamp"])
    clock_us = time.time_ns() // 1000 if record.timestamp_ms == NO_TIMESTAMP else record.timestamp_ms * 1000
    if event_us > clock_us + max_clock_skew_s * 1_000_000:
        raise _BadRecordError("timestamp is too far ahead")
    return Reading(record, device_id, event_us, fields["request_id"], index or "", metadata)


def _event_us(text: str) -> int:
    """Read an event time, µs since 1970 in UTC.

    Reading taken: whatever `fromisoformat` takes, a date alone (midnight) too; digits beyond the µs are cut off, as it
    cuts them.
    """
    try:
        event_time = datetime.fromisoformat(text)
    except ValueError as error:
        raise _BadRecordError("timestamp is no ISO 8601 time") from error
    if event_time.tzinfo is None:
        event_time = event_time.replace(tzinfo=UTC)
    if not EPOCH <= event_time < END:
        raise _BadRecordError("timestamp lies outside of the years 1970 to 9998")
    return (event_time - EPOCH) // timedelta(microseconds=1)


def _refuse_constant(name: str) -> NoReturn:
    raise _BadRecordError(f"{name} is no JSON")


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INT_DIGITS else float(digits)


# Of a repeated name the last wins, as in a dict. Refuses a BOM and raw control characters, takes a lone \ud800.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_int)


def parse_object(value: bytes) -> dict[str, Any]:
    """Read UTF-8 RFC 8259 text that is an object.

    Reading taken: RFC 8259 section 9 lets a reader limit depth, so what is nested deeper than the interpreter's
    recursion limit is "no JSON object"; numbers that no double holds (1e400) are JSON all the same, and infinite here.
    """
    try:
        parsed = _DECODER.decode(value.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadRecordError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _BadRecordError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise _BadRecordError("nested too deep") from error
    if not isinstance(parsed, dict):
        raise _BadRecordError("JSON, but no object")
    return parsed


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


def member_texts(text: str) -> dict[str, str]:
    """Give the text of each value in a valid JSON object, as it stands there; the last one of a repeated name."""
    texts: dict[str, str] = {}
    depth, name, begin, end = 0, "", -1, 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        depth -= mark in ("}", "]")
        if depth == 1 and mark == ":":
            begin = token.end()
        elif (depth == 1 and mark == ",") or depth == 0:
            if begin >= 0:
                texts[name] = text[begin:end].strip(" \t\r\n")
            begin = -1
        elif begin < 0:
            name = json.loads(mark)
        depth += mark in ("{", "[")
        end = token.end()
    return texts


def has_lone_surrogate(text: str) -> bool:
    """Tell whether a str has no UTF-8 form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


@dataclass
class State:
    """What Redis holds after a set of records."""

    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Device id -> the five public fields as text, a null being an absent field."""
    deadlines: dict[str, int | None] = field(default_factory=dict)
    """Device id -> when its hash expires, ms since 1970; None = never."""
    devices: set[str] = field(default_factory=set)
    tombstones: dict[str, Order] = field(default_factory=dict)
    """Device id -> its newest tombstone, also when a newer reading stands above it."""
    bad: list[tuple[int, int]] = field(default_factory=list)
    """(partition, offset) of every bad record, each once, in that order."""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Device id -> the four JSON values and `last_updated`, before they become text."""


def fold(records: Iterable[Record], *, ttl_s: int, now_ms: int | None = None, max_clock_skew_s: int = 3600) -> State:
    """Tell what Redis holds after these records, in whatever order and however often each is delivered.

    `now_ms`: what is older than the TTL by then is left out, as by a rebuild from the topic at that moment; None:
    nothing is too old.

    Reading taken: a bad record is bad however old. With `now_ms`, a live worker may hold less than a rebuild: a winner
    with an older Kafka timestamp may have kept a reading out and have expired before it.
    """
    winners: dict[str, Reading | Tombstone] = {}
    state = State()
    bad: set[tuple[int, int]] = set()
    for record in records:
        verdict = judge(record, max_clock_skew_s=max_clock_skew_s)
        if isinstance(verdict, Bad):
            bad.add((record.partition, record.offset))
            continue
        if isinstance(verdict, Reading) and verdict.metadata is None:
            continue
        if ttl_s and now_ms is not None and verdict.record_ms + ttl_s * 1000 <= now_ms:
            continue
        device_id = verdict.device_id
        if isinstance(verdict, Tombstone):
            state.tombstones[device_id] = max(verdict.order, state.tombstones.get(device_id, verdict.order))
        if device_id not in winners or verdict.order > winners[device_id].order:
            winners[device_id] = verdict
    for device_id, winner in winners.items():
        if isinstance(winner, Reading):
            kept = _kept(winner)
            state.kept[device_id] = kept
            state.hashes[device_id] = _texts(winner, kept)
            state.deadlines[device_id] = winner.record_ms + ttl_s * 1000 if ttl_s else None
            state.devices.add(device_id)
    state.bad = sorted(bad)
    return state


def _kept(reading: Reading) -> dict[str, Any]:
    metadata = reading.metadata or {}
    kept = {name: metadata.get(name) for name in KEPT_OF_METADATA}
    if kept["persist"] is None:
        kept["persist"] = True
    kept["last_updated"] = time_text(reading.event_us)
    return kept


def time_text(event_us: int) -> str:
    """Write a time as `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    return f"{EPOCH + timedelta(microseconds=event_us):%Y-%m-%dT%H:%M:%S.%fZ}"


def _texts(reading: Reading, kept: dict[str, Any]) -> dict[str, str]:
    """Write the fields of a hash: a str as it is, null as an absent field, anything else as the JSON text that came."""
    came = {name: text for name, text in reading.texts.items() if text != "null"}
    return {
        name: value if isinstance(value, str) else came.get(name, "true")
        for name, value in kept.items()
        if value is not None
    }


def public(state: State, device_id: str) -> dict[str, Any] | None:
    """Give the object that HTTP answers for a device, nulls as None; None where it answers 404."""
    if device_id not in state.kept:
        return None
    return {"device_id": device_id, **state.kept[device_id]}


SHOWN_DIFFERENCES = 10
DEADLINE_TOLERANCE_MS = 2
_PIPELINED = 200

_Hash: TypeAlias = dict[bytes, bytes]
_Span: TypeAlias = tuple[int, int]  # of milliseconds: Redis may pause between a look at the clock and the time left


def assert_equal_to_redis(state: State, client: "redis.Redis") -> None:
    """Hold a Redis (a client without `decode_responses`) against a state: hashes, their deadlines, the set `devices`.

    Fields that begin with `_` are the product's own. Deadlines may differ by 2 ms. A text with a lone surrogate has no
    UTF-8 form and the contract names no other, so of such a field only the presence is compared.

    Raises: AssertionError with the first 10 differences.
    """
    hashes, deadlines = _read_hashes(client)
    found = [
        *_hash_differences(state, hashes),
        *_deadline_differences(state, deadlines),
        *_set_differences(state, client.smembers("devices")),
    ]
    if found:
        shown = "\n".join(f"  {line}" for line in found[:SHOWN_DIFFERENCES])
        raise AssertionError(f"Redis differs from the oracle in {len(found)} places, the first of them:\n{shown}")


def _read_hashes(client: "redis.Redis") -> tuple[dict[bytes, _Hash], dict[bytes, _Span | None]]:
    """Read every `device:*:metadata`: fields and deadline by device id. A hash that expires meanwhile is absent."""
    hashes: dict[bytes, _Hash] = {}
    deadlines: dict[bytes, _Span | None] = {}
    keys = sorted(set(client.scan_iter(match="device:*:metadata", count=1000)))
    for start in range(0, len(keys), _PIPELINED):
        some = keys[start : start + _PIPELINED]
        pipeline = client.pipeline(transaction=False)
        for key in some:
            # PEXPIRETIME came with Redis 7: the time left, between two looks at the clock, says the same.
            pipeline.time()
            pipeline.pttl(key)
            pipeline.time()
            pipeline.hgetall(key)
        answers: list[Any] = pipeline.execute()
        for position, key in enumerate(some):
            before, left_ms, after, fields = answers[4 * position : 4 * position + 4]
            device_id = key.removeprefix(b"device:").removesuffix(b":metadata")
            if b"last_updated" in fields:  # else it keeps a tombstone's stamp, or is none of ours: absent to a reader
                hashes[device_id] = {name: text for name, text in fields.items() if not name.startswith(b"_")}
                earliest, latest = (seconds * 1000 + micros // 1000 + left_ms for seconds, micros in (before, after))
                deadlines[device_id] = None if left_ms == -1 else (earliest, latest)
    return hashes, deadlines


def _hash_differences(state: State, hashes: dict[bytes, _Hash]) -> list[str]:
    expected = {device_id.encode(): fields for device_id, fields in state.hashes.items()}
    lines = [f"device {device_id!r}: no hash" for device_id in sorted(expected.keys() - hashes.keys())]
    lines += [f"device {device_id!r}: a hash too many" for device_id in sorted(hashes.keys() - expected.keys())]
    for device_id in sorted(expected.keys() & hashes.keys()):
        wanted = {name.encode(): text for name, text in expected[device_id].items()}
        held = hashes[device_id]
        for name in sorted(wanted.keys() | held.keys()):
            if not _is_same_text(wanted.get(name), held.get(name)):
                field_name = name.decode(errors="replace")
                lines.append(f"device {device_id!r}: {field_name} is {held.get(name)!r}, not {wanted.get(name)!r}")
    return lines


def _is_same_text(wanted: str | None, held: bytes | None) -> bool:
    if wanted is None or held is None:
        return wanted is None and held is None
    return has_lone_surrogate(wanted) or wanted.encode() == held


def _deadline_differences(state: State, deadlines: dict[bytes, _Span | None]) -> list[str]:
    lines = []
    for device_id, wanted in sorted(state.deadlines.items()):
        if device_id.encode() not in deadlines:
            continue  # told already: no hash
        held = deadlines[device_id.encode()]
        if not _is_same_deadline(wanted, held):
            lines.append(f"device {device_id.encode()!r}: expires at {held} ms, not {wanted} ms")
    return lines


def _is_same_deadline(wanted: int | None, held: _Span | None) -> bool:
    if wanted is None or held is None:
        return wanted is None and held is None
    return held[0] - DEADLINE_TOLERANCE_MS <= wanted <= held[1] + DEADLINE_TOLERANCE_MS


def _set_differences(state: State, members: set[Any]) -> list[str]:
    expected = {device_id.encode() for device_id in state.devices}
    return [
        *(f"set devices: {device_id!r} is missing" for device_id in sorted(expected - members)),
        *(f"set devices: {device_id!r} is too many" for device_id in sorted(members - expected)),
    ]
