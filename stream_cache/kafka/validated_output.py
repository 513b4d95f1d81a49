"""The typed record of the source topic, as Faust defines one."""

from __future__ import annotations

from typing import Any, Optional

import faust


class ValidatedOutput(faust.Record, serializer="json"):
    """One reading as the normalizer writes it to the source topic (the contract, section 1)."""

    request_id: str
    timestamp: str
    device_id: str
    values: list[Any]
    index: Optional[str] = ""  # noqa: UP045 - Faust reads annotations, and knows no `X | Y`
    metadata: Optional[dict[str, Any]] = None  # noqa: UP045 - as above
    label: Any = None
    labels: Any = None
    display_names: Any = None
