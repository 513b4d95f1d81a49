"""The service with a consumer that can be made to stall in silence: `faust -A tests.faults.stalling_app worker`.

While the file that STALL_WHILE_EXISTS names is there, the consumer's fetches bring nothing and say nothing; heartbeats
go on, as in the stalls that this ecosystem knows.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import aiokafka

_flag = Path(os.environ["STALL_WHILE_EXISTS"])
_fetch = aiokafka.consumer.fetcher.Fetcher.fetched_records


async def _fetch_nothing_in_silence(self: Any, partitions: Any, timeout: float = 0, **limits: Any) -> Any:  # noqa: ASYNC109
    if _flag.exists():  # noqa: ASYNC240 - a test's own switch
        await asyncio.sleep(timeout)
        return {}
    return await _fetch(self, partitions, timeout, **limits)


aiokafka.consumer.fetcher.Fetcher.fetched_records = _fetch_nothing_in_silence

from stream_cache.app import app  # noqa: E402 - made with the consumer above

__all__ = ["app"]
