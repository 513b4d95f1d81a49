"""JSON texts: what is one, and how one is written."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NoReturn

import msgspec


def json_text(value: Any) -> str:
    """Return the JSON text of a decoded value."""
    text = json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8; JSON can still say it, escaped.
    return text if is_unicode(text) else json.dumps(value)


def is_json(text: bytes) -> bool:
    """Tell whether a text is JSON that can be read here: one that is nested too deeply is not."""
    try:
        decoded = text.decode()  # msgspec doesn't look into texts that it skips
        with suppress(msgspec.DecodeError):
            msgspec.json.decode(text, type=msgspec.Raw)
            return True
        # msgspec takes no half of a surrogate pair, which JSON may hold, escaped.
        json.loads(decoded, parse_constant=refuse_constant, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def refuse_constant(name: str) -> NoReturn:
    """Be the `parse_constant` of `json.loads`, which would take NaN and Infinity. Raises: ValueError."""
    raise ValueError(f"{name} is not valid JSON")


def is_unicode(text: str) -> bool:
    """Tell whether a text has a UTF-8 form: JSON may smuggle in half of a surrogate pair, which has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
