"""How the benchmark starts Python programs of this clone."""

import os

from tests.harness import INHERITED_VARIABLES
from tests.services.machine import CLONE


def environment() -> dict[str, str]:
    """Give a child's environment: of the caller's shell only what the service inherits in tests too."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {**inherited, "PYTHONPATH": str(CLONE)}
