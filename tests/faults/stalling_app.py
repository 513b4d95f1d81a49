"""The service with a consumer that can be made to stall in silence: `faust -A tests.faults.stalling_app worker`.

While the file that STALL_WHILE_EXISTS names is there, the consumer's fetches bring nothing and say nothing; heartbeats
go on, as in the stalls that this ecosystem knows.
"""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from faust.types import TP

from stream_cache.kafka import consumer_thread, fetching
from stream_cache.kafka.batches import Step

_flag = Path(os.environ["STALL_WHILE_EXISTS"])
_wait_for_records, _take = fetching.wait_for_records, fetching.take


async def _wait_in_silence(fetcher: Any, active: Collection[TP], timeout_s: float | None) -> None:
    if _flag.exists():  # noqa: ASYNC240 - a test's own switch
        await asyncio.sleep(timeout_s or 1)
    else:
        await _wait_for_records(fetcher, active, timeout_s)


def _take_nothing(fetcher: Any, active: Collection[TP], max_records: int) -> dict[TP, Step]:
    return {} if _flag.exists() else _take(fetcher, active, max_records)


# mypy sees in a module only what it exports.
vars(consumer_thread).update(wait_for_records=_wait_in_silence, take=_take_nothing)

from stream_cache.app import app  # noqa: E402 - made with the consumer above

__all__ = ["app"]
