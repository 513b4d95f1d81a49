"""Hypothesis strategies over the contract's section 1.

A value is good or bad only beside a Kafka timestamp: here that is `RECORD_MS`, with the default `MAX_CLOCK_SKEW_S`.
"""

import json
import random
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from tests import readings

RECORD_MS = readings.BASE_MS
LATEST_US = (RECORD_MS + readings.MAX_CLOCK_SKEW_S * 1000) * 1000
_DAY_US = 86_400_000_000
_EARLIEST_US = 0
_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_ANY_TEXT = _UNICODE | st.text(st.characters(categories=["Cs", "L"]), max_size=4)  # with lone surrogates
_NUMBERS = st.integers() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
_ATOMS = st.none() | st.booleans() | _NUMBERS | _UNICODE


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value, as Python holds it."""
    return st.recursive(
        _ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_UNICODE, inner, max_size=4), max_leaves=8
    )


def device_ids() -> st.SearchStrategy[str]:
    """Any device id that is accepted."""
    return st.sampled_from(readings.ODD_DEVICE_IDS) | _UNICODE.filter(bool) | st.just("device-1")


def event_times() -> st.SearchStrategy[str]:
    """Any event time that is accepted, in any form, from 1970 on."""
    return st.builds(
        lambda event_us, seed: readings.time_text(random.Random(seed), event_us),
        st.integers(LATEST_US - 10 * _DAY_US, LATEST_US)
        | st.integers(_EARLIEST_US, LATEST_US)
        | st.sampled_from([LATEST_US, LATEST_US - 1, _EARLIEST_US]),
        st.integers(0, 2**32),
    )


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Any metadata object, the four fields being what the normalizer writes or what a gateway put there."""
    override = json_values() | st.sampled_from(readings.STRINGS_LIKE_JSON + readings.JSON_TEXTS)
    texts = st.none() | _ANY_TEXT
    return st.builds(
        lambda extra, four: {**extra, **four},
        st.dictionaries(_UNICODE, json_values(), max_size=3),
        st.fixed_dictionaries(
            {},
            optional={
                "datatype_id": texts | override,
                "datatype_name": texts | override,
                "datatype_unit": texts | st.lists(_UNICODE, max_size=3) | override,
                "persist": st.none() | st.booleans() | st.lists(st.booleans(), max_size=3) | override,
            },
        ),
    )


def valid_fields() -> st.SearchStrategy[dict[str, Any]]:
    """The fields of any good reading, those among them that are not judged too."""
    judged = st.fixed_dictionaries(
        {
            "request_id": _ANY_TEXT,
            "timestamp": event_times(),
            "device_id": device_ids(),
            "values": st.lists(json_values(), max_size=4),
        },
        optional={"index": st.none() | _ANY_TEXT, "metadata": st.none() | metadata() | metadata()},
    )
    not_judged = st.dictionaries(
        st.sampled_from(["label", "labels", "display_names", "other", ""]), json_values() | _ANY_TEXT, max_size=3
    )
    return st.builds(lambda extra, fields: {**extra, **fields}, not_judged, judged)


def valid_values() -> st.SearchStrategy[bytes]:
    """The value of any good reading, in any way that JSON may be written."""
    return st.builds(
        lambda fields, seed: readings.value_of(random.Random(seed), fields),
        valid_fields(),
        st.integers(0, 2**32),
    )


def bad_values() -> st.SearchStrategy[bytes]:
    """The value of any bad record: one thing wrong with an otherwise good one, or nothing right at all."""
    return st.builds(
        lambda why, fields, seed: readings.BAD_VALUES[why](random.Random(seed), fields, RECORD_MS),
        st.sampled_from(list(readings.BAD_VALUES)),
        valid_fields(),
        st.integers(0, 2**32),
    )


def any_json_bytes() -> st.SearchStrategy[bytes]:
    """JSON of any kind, good reading or not, and what `json.dumps` writes though it is no JSON (NaN, Infinity)."""
    near_misses = st.fixed_dictionaries(
        {},
        optional={
            "request_id": json_values(),
            "timestamp": json_values() | event_times() | st.datetimes().map(datetime.isoformat),
            "device_id": json_values() | _ANY_TEXT | device_ids(),
            "values": json_values(),
            "index": json_values(),
            "metadata": json_values() | metadata(),
        },
    )
    return st.builds(
        lambda value, indent, is_ascii: readings.utf8(json.dumps(value, indent=indent, ensure_ascii=is_ascii)),
        json_values() | near_misses | near_misses | valid_fields() | st.floats(),
        st.sampled_from([None, None, 0, 2]),
        st.booleans(),
    )
