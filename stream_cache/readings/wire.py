"""The form of a record's value, as far as it is judged (the contract, section 1)."""

from __future__ import annotations

from typing import Annotated

import msgspec


class AnyList(msgspec.Struct, array_like=True, gc=False):
    """A JSON list whose items are skipped: msgspec skips those that an array-like struct has no fields for."""


class AnyObject(msgspec.Struct, gc=False):
    """A JSON object whose members are skipped."""


class Wire(msgspec.Struct, gc=False):
    """What is judged of a `ValidatedOutput`, whose fields and defaults a test holds it to."""

    request_id: str
    timestamp: Annotated[str, msgspec.Meta(min_length=8)]  # "20261122"
    device_id: Annotated[str, msgspec.Meta(min_length=1)]
    values: AnyList
    index: str | None = ""
    metadata: AnyObject | None = None
