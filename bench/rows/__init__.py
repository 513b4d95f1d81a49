"""The rows of the backlog benchmark: one module each, run as a child process, one JSON line as its answer.

The clock of a row starts with the first record that it receives and stops when all readings are in Redis.
"""

from dataclasses import dataclass
from typing import Final, Literal

# What a row leaves in Redis: hashes that the latest event time has won, hashes or JSON strings of the last record in
# offset order, or nothing.
State = Literal["latest_hash", "last_hash", "last_json", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One contestant; `readings_max`: so slow that a tenth of the readings is enough, at most so many."""

    name: str
    label: str
    module: str
    state: State
    readings_max: int | None = None


BASELINE: Final = "c_client"
OURS: Final = "stream_cache"
BEFORE: Final = "before"

ROWS: Final = (
    Row(name="limit", label="limit: librdkafka + msgspec, no Redis", module="limit", state="nothing"),
    Row(name=BASELINE, label="hand-written C-client loop", module="c_client", state="latest_hash"),
    Row(name=OURS, label="stream_cache, one worker", module="stream_cache_worker", state="latest_hash"),
    Row(name=BEFORE, label="stream_cache, before the new store", module="before_worker", state="latest_hash"),
    Row(name="aiokafka", label="plain aiokafka loop", module="aiokafka_loop", state="latest_hash"),
    Row(name="faststream", label="FastStream batch subscriber", module="faststream_batch", state="latest_hash"),
    Row(name="quix", label="Quix Streams + RedisSink", module="quix_sink", state="last_json"),
    Row(
        name="faust_plain",
        label="plain Faust agent + table",
        module="faust_plain",
        state="last_hash",
        readings_max=20_000,
    ),
)
