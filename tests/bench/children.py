"""How the benchmark starts Python programs of this clone."""

import os
from pathlib import Path
from typing import Final

CLONE: Final = Path(__file__).resolve().parents[2]


def environment(**own: str) -> dict[str, str]:
    """Give a child's environment: of the caller's shell only where things are, so that no stray setting is measured."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(CLONE), **own}
