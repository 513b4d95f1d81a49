"""The service as it was at an earlier commit, beside the one of today: what a change has cost, or brought."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from bench.rows.job import Job
from bench.rows.stream_cache_worker import measure
from tests.services.machine import CLONE

#: The last one with the store of one Redis and its scripts.
COMMIT: Final = "c082874"


def main() -> None:
    job = Job.from_argument()
    package = Path(job.directory) / "before"
    archive = subprocess.run(
        ["git", "-C", str(CLONE), "archive", COMMIT, "stream_cache"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(package, filter="data")
    measure(job, package)


if __name__ == "__main__":
    main()
