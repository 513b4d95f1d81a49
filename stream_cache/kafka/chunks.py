"""A chunk: what one fetch brought of one partition, and how it passes through Faust as one event."""

from __future__ import annotations

from typing import Any

import faust
import msgspec
from faust.types import AppT, Message


class Chunk(msgspec.Struct):
    """What the records say that one fetch brought of one partition.

    `content` is what the transport's `decode` made of them, None where there was none: where the log holds only
    transaction markers or aborted records, the offset moves on all the same. `next_offset` is the one after the last
    that was read; `is_caught_up` says that no assigned partition is known to hold more. `size_bytes` is that of the
    records' keys and values, which what was made of them may hold on to.
    """

    content: Any
    record_count: int
    next_offset: int
    is_caught_up: bool
    size_bytes: int = 0


class ChunkSchema(faust.Schema[None, Chunk]):
    """Hands a chunk to the agent as it is: nothing for Faust to decode, and so nothing to fail or to ack on its own."""

    def loads_key(self, *_: Any, **__: Any) -> Any:
        """A chunk has no key: each of its records has its own."""

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Any:  # noqa: ARG002 - Faust's signature
        """Return the chunk."""
        return message.value
