"""The service with a probe in its event loop: `faust -A bench.probed_app worker`.

The probe asks to run every 5 ms. By how much later it runs, the loop was held: by our code, by the other thread with
the interpreter's lock, or by a machine that is busy elsewhere. Each hold goes into the file HOLDS_FILE as a line: its
end (perf_counter, which all processes of a machine share) and its length in ms.
"""

import asyncio
import os
import time
from pathlib import Path

from stream_cache.app import app

EVERY_S = 0.005


@app.task  # type: ignore[untyped-decorator]  # Faust has no types for it
async def probe() -> None:
    """Write every hold, at once."""
    with Path(os.environ["HOLDS_FILE"]).open("a", buffering=1) as file:  # noqa: ASYNC230 - less than a hold takes
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(EVERY_S)
            now_s = time.perf_counter()
            file.write(f"{now_s} {(now_s - asked_s - EVERY_S) * 1e3}\n")


__all__ = ["app"]
