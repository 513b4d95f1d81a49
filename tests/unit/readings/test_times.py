"""The one text of a time (the contract, section 2)."""

from datetime import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from stream_cache.readings.times import format_time


@given(st.datetimes())
@example(datetime.min)  # noqa: DTZ901 - naive UTC, as all event times
@example(datetime(2026, 11, 22, 10, 15, 30))  # noqa: DTZ001 - as above
@example(datetime(2026, 11, 22, 10, 15, 30, 120))  # noqa: DTZ001 - as above
def test_time__has_one_text_that_always_shows_microseconds(moment: datetime) -> None:
    """Redis compares these texts, so their order must be the order of times."""
    day, clock = f"{moment.year:04}-{moment.month:02}-{moment.day:02}", f"{moment.hour:02}:{moment.minute:02}"
    assert format_time(moment) == f"{day}T{clock}:{moment.second:02}.{moment.microsecond:06}Z"
