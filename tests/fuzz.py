"""Throw odd records at the decoder: `python -m tests.fuzz --inputs 1000000 [--seed S]`.

Mutates good and bad values (bits, cuts, repeats, JSON tokens, nesting, huge numbers and strings) and decodes each one
beside two good neighbours. Whatever comes: nothing is raised, the neighbours are read, and the record is read or told
with a reason, within a time that its size bounds. The longest decode is shown beside the size that took it.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence

from stream_cache.store.hashes import to_texts
from tests.fakes import FakeRecord, decode_all
from tests.readings import BAD_VALUES, bad_samples, good_samples

_TIMESTAMP_MS = 1_795_342_535_000
_TOKENS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"-0", b"1e999", b"\\ud800", b"\\u0000"]
_TOKENS += [
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x00",
    b'"device_id":"x",',
    b'"timestamp":"2026-11-22T10:15:30Z",',
    b'"index":7,',
]
_MAX_S_PER_MIB = 1.0  # generous: about 0.02 s are seen


def _flip(rng: random.Random, value: bytearray) -> None:
    if value:
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, value: bytearray) -> None:
    start = rng.randrange(len(value) + 1)
    del value[start : start + rng.randrange(1, 20)]


def _insert(rng: random.Random, value: bytearray) -> None:
    at = rng.randrange(len(value) + 1)
    value[at:at] = rng.choice(_TOKENS)


def _repeat(rng: random.Random, value: bytearray) -> None:
    start = rng.randrange(len(value) + 1)
    value[start:start] = value[start : start + rng.randrange(1, 40)] * rng.randrange(1, 5)


def _blow_up(rng: random.Random, value: bytearray) -> None:
    if rng.random() < 0.99:  # the large ones are slow to make, too
        return
    size = rng.choice([1_000, 100_000, 1_000_000])
    at = rng.randrange(len(value) + 1)
    value[at:at] = rng.choice(
        [b"[" * size, b'{"a":' * (size // 5), b"9" * size, b"x" * size, b'"' + b"\\n" * (size // 2)]
    )


_MUTATIONS: Sequence[Callable[[random.Random, bytearray], None]] = (_flip, _cut, _insert, _repeat, _blow_up)


def _check(value: bytes, neighbour: bytes) -> float:
    records = [
        FakeRecord(0, 0, _TIMESTAMP_MS, b"k", neighbour),
        FakeRecord(0, 1, _TIMESTAMP_MS, b"k", value),
        FakeRecord(0, 2, _TIMESTAMP_MS, b"k", neighbour),
    ]
    began = time.thread_time()
    chunk = decode_all(records)
    seconds = time.thread_time() - began
    assert "internal_error" not in {bad.kind for _, bad in chunk.bad}, "the decoder has a fault"
    for reading in chunk.readings:
        to_texts(reading.metadata)
    assert {0, 2} <= {reading.raw.offset for reading in chunk.readings}, "a good neighbour was harmed"
    told = [record.offset for record, _ in chunk.bad]
    assert len(chunk.readings) + len(told) + chunk.without_metadata_count == len(records), "a record was dropped"
    assert all(bad.reason and len(bad.reason) < 1_000 for _, bad in chunk.bad), "the reason is missing, or endless"
    assert seconds < 0.1 + _MAX_S_PER_MIB * len(value) / 2**20, f"{len(value)} bytes took {seconds:.2f} s"
    return seconds


def main() -> None:
    """Run, and say how it went; exits 1 with the input that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{options.inputs:,} inputs, seed {options.seed}", flush=True)
    good = good_samples()
    seeds = [*good, *bad_samples().values()]
    slowest_s, slowest_bytes = 0.0, 0
    for number in range(options.inputs):
        value = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            rng.choice(_MUTATIONS)(rng, value)
        try:
            seconds = _check(bytes(value), good[0])
        except Exception as error:  # noqa: BLE001 - whatever escapes is what is looked for
            sys.exit(f"input {number} of seed {options.seed}: {type(error).__name__}: {error}\n{bytes(value[:2000])!r}")
        if seconds > slowest_s:
            slowest_s, slowest_bytes = seconds, len(value)
    print(f"nothing escaped; {len(BAD_VALUES)} kinds of bad values stand in tests/readings.py")
    print(f"the slowest: {slowest_s * 1000:.1f} ms for {slowest_bytes:,} bytes")


if __name__ == "__main__":
    main()
