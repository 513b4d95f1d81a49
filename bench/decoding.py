"""What the odd shapes cost beside the usual ones: time stamps in other forms, metadata of lists.

Each figure is a ratio of two times of this run: the median of `ROUNDS` alternating rounds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

import msgspec

from bench.figures import Figure
from stream_cache.readings.decode import decode_chunk
from stream_cache.readings.metadata import Metadata
from stream_cache.readings.reading import Record
from stream_cache.store.hashes import to_texts

ROUNDS: Final = 15
_RECORDS: Final = 5_000
_NOW_MS: Final = int(time.time() * 1000)
_STAMP: Final = "2026-11-22T10:15:{second:02d}.{fraction:06d}"


def measure() -> list[Figure]:
    """Measure all ratios."""
    naive, lists = _decoding(""), _texts('["C","%"]', "[true,false]")
    plain = _texts('"C"', "true")
    return [
        _ratio("decode: a stamp with Z / a naive one", _decoding("Z"), naive, "<= 1.3"),
        _ratio("decode: a stamp with an offset / a naive one", _decoding("+02:00"), naive, "<= 1.3"),
        _ratio("to_texts: lists / plain", lists, plain, "<= 2"),
    ]


def _decoding(zone: str) -> Callable[[], object]:
    def value(number: int) -> bytes:
        stamp = _STAMP.format(second=number % 60, fraction=number * 37 % 1_000_000) + zone
        return (
            f'{{"request_id":"5f2c8a1e-{number:06d}","timestamp":"{stamp}","device_id":"greenhouse/{number % 500}",'
            '"values":[21.5],"index":"a","metadata":{"datatype_id":"t","datatype_name":"Temperature",'
            '"datatype_unit":"C","persist":true}}'
        ).encode()

    records = [Record(0, number, _NOW_MS, b"k", value(number)) for number in range(_RECORDS)]
    return lambda: decode_chunk(records, 0, 10**8)


def _texts(unit: str, persist: str) -> Callable[[], object]:
    metadata = Metadata(*[msgspec.Raw(text.encode()) for text in ('"t"', '"Temperature"', unit, persist)])
    return lambda: [to_texts(metadata) for _ in range(_RECORDS)]


def _ratio(name: str, work: Callable[[], object], reference: Callable[[], object], goal: str) -> Figure:
    ratios = sorted(_cpu_s(work) / _cpu_s(reference) for _ in range(ROUNDS))
    spread = f"{ratios[1]:.2f} to {ratios[-2]:.2f}"
    return Figure(name=f"{name} ({spread})", value=statistics.median(ratios), unit="x", goal=goal)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
