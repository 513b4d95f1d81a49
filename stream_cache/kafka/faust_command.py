"""The command `faust`: Faust's own, after a look at what Faust reads while it is imported.

Faust turns some variables into numbers in the body of a module (`faust/types/_env.py`), before it has looked at any
app: what it can't read ends in a traceback there, and no app can help it. So this package brings a command of the same
name, in the place of Faust's (pip installs it after what it depends on). `python -m faust` goes around it.

Imports nothing of Faust before it has looked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal

from stream_cache.environment import convert, parsed, within
from stream_cache.errors import InvalidSetting
from stream_cache.settings import Port


def _parse_folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(text)
    return text


#: Without their prefix, `FAUST_` or `F_`: what Faust and its command read before an app.
READ_AT_IMPORT: dict[str, Any] = {
    "WEB_PORT": Port,
    "CONSOLE_PORT": Port,
    "BLOCKING_TIMEOUT": Annotated[float, within(1, 86_400)],
    "LOOP": Literal["aio", "uvloop"],
    "WORKDIR": Annotated[str, parsed(_parse_folder, "the path of a folder")],
    "WEB_TRANSPORT": Literal["tcp://"],
}


def check_read_at_import(environ: Mapping[str, str]) -> None:
    """Look at the variables that Faust reads while it is imported. Raises: InvalidSetting."""
    for variable, kind in _read_at_import():
        if text := environ.get(variable, "").strip():
            convert(variable, text, kind)


def _read_at_import() -> list[tuple[str, Any]]:
    return [(f"{prefix}{name}", kind) for name, kind in READ_AT_IMPORT.items() for prefix in ("FAUST_", "F_")]


def _drop_empty(environ: MutableMapping[str, str]) -> None:
    """An empty variable counts as not set, but not to Faust."""
    for variable, _ in _read_at_import():
        if not environ.get(variable, "set").strip():
            del environ[variable]


def main() -> None:
    """Run Faust's command."""
    _drop_empty(os.environ)
    try:
        check_read_at_import(os.environ)
    except InvalidSetting as error:
        sys.exit(str(error))
    from faust.cli.faust import cli  # noqa: PLC0415 - only now can it be imported

    cli()
