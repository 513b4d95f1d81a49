"""The demo's live line fits the terminal."""

import pytest

from stream_cache.demo.live import Part, fit

PARTS = (
    Part("  612 readings/s", "612/s"),
    Part(" 1,000 devices", "1,000 devices"),
    Part("fresh in  21 ms (max  43)", " 21 ms"),
    Part("rejected 3/4", "errors 3/4"),
)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "  612 readings/s,  1,000 devices, fresh in  21 ms (max  43), rejected 3/4"),
        (60, "612/s, 1,000 devices, 21 ms, errors 3/4"),
        (30, "612/s, 1,000 devices, 21 ms"),
        (4, "612/"),
    ],
)
def test_narrow_terminal__has_short_parts_then_fewer(width: int, line: str) -> None:
    assert fit(PARTS, width) == line
