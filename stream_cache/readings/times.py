"""Event times in, record times in: texts and milliseconds -> naive UTC (the contract, section 1)."""

from __future__ import annotations

import math
import re
import sys
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - event times are naive UTC throughout: comparing those is cheapest
LAST_MOMENT = datetime(9998, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001 - as above
#: Python 3.13 began to take midnight as 24:00, which is none of the contract's times.
TAKES_24 = sys.version_info >= (3, 13)
_EPOCH_UTC = EPOCH.replace(tzinfo=UTC)


#: The epoch in each zone that was met; there is no more than one for each minute of a day, and back.
_EPOCH_IN: dict[tzinfo | None, datetime] = {None: EPOCH}
parse_iso = datetime.fromisoformat
_read_json_time = msgspec.json.Decoder(datetime).decode
#: Of a time with an offset in hours and minutes and no more than six digits of a second.
_LONGEST = len("2026-11-22T10:15:30.123456+02:00")
_says_24 = re.compile(r".{7,10}\D24").match


def parse_event_time(text: str) -> datetime:
    """ISO 8601 text -> naive UTC, as the `datetime.fromisoformat` of Python 3.11 takes it.

    Raises: ValueError saying what is wrong with the text.
    """
    return in_utc(parse_iso(text), text)


def parse_with_offset(text: str) -> datetime:
    """Parse what ends like an offset: naive UTC in the usual form, in any other what `parse_iso` makes of it.

    Python asks both zones for their offsets when times are subtracted, in 1.1 us, unless they are the same object, in
    0.1 us. msgspec has one object for each offset, `fromisoformat` a new one for each time.

    Raises: ValueError where it isn't a time.
    """
    if len(text) <= _LONGEST:  # of more digits msgspec rounds the seventh, which is to be cut off
        try:
            moment = _read_json_time(f'"{text}"')
            return EPOCH + (moment - _EPOCH_IN[moment.tzinfo])
        except KeyError:
            _EPOCH_IN[moment.tzinfo] = _EPOCH_UTC.astimezone(moment.tzinfo)
        except (ValueError, OverflowError):
            pass
    return parse_iso(text)


def in_utc(moment: datetime, text: str) -> datetime:
    """Make a parsed time naive UTC. Raises: ValueError where the contract doesn't take its text."""
    if moment.tzinfo is not None:
        try:
            moment = EPOCH + (moment - _EPOCH_UTC)  # takes a fifteenth of the time of `replace(tzinfo=None)`
        except OverflowError:
            raise ValueError("in UTC, the year is not in 1970 to 9998") from None
    if not EPOCH <= moment <= LAST_MOMENT:
        raise ValueError(f"in UTC, the year {moment.year} is not in 1970 to 9998")
    if TAKES_24 and _says_24(text):
        raise ValueError("hour must be in 0..23")
    return moment


def record_time(timestamp_ms: int, later: timedelta = timedelta()) -> datetime:
    """Return a Kafka timestamp as a time, or the last or first there is: a producer may send any 64-bit number."""
    try:
        return EPOCH + timedelta(milliseconds=timestamp_ms) + later
    except OverflowError:
        return datetime.max if timestamp_ms > 0 else datetime.min  # noqa: DTZ901 - naive UTC, as all event times


def to_ms(moment: datetime) -> int:
    """Return the whole milliseconds since 1970 of a naive UTC time."""
    # A third of the time of `// timedelta(milliseconds=1)`. A float of seconds is off by 0.3 us at most.
    return math.floor((moment - EPOCH).total_seconds() * 1000 + 0.0005)


def format_time(moment: datetime) -> str:
    """Return a naive UTC time as the contract writes it: `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    if moment.microsecond:  # msgspec writes no fraction of zero, and the others four times as fast
        return f"{msgspec.to_builtins(moment)}Z"
    return moment.isoformat(timespec="microseconds") + "Z"


def now() -> datetime:
    """Return the time, naive and UTC, as all times here."""
    return datetime.now(UTC).replace(tzinfo=None)
