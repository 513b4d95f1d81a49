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

from stream_cache.errors import WrongSetting
from stream_cache.settings import Form, one_of, seconds, whole


def _read_directory(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(text)
    return text


#: Without their prefix, `FAUST_` or `F_`: what Faust and its command read before an app.
READ_AT_IMPORT = {
    "WEB_PORT": whole(1, 65535),
    "CONSOLE_PORT": whole(1, 65535),
    "BLOCKING_TIMEOUT": seconds(1, 86_400),
    "LOOP": one_of("aio", "uvloop"),
    "WORKDIR": Form(_read_directory, "the path of a folder"),
    "WEB_TRANSPORT": one_of("tcp://"),
}


def check_read_at_import(environ: Mapping[str, str]) -> None:
    """Look at the variables that Faust reads while it is imported. Raises: WrongSetting."""
    for variable, form in _read_at_import():
        text = environ.get(variable, "").strip()
        if text:
            try:
                form.read(text)
            except ValueError:
                raise WrongSetting(variable, text, form.may_hold) from None


def _read_at_import() -> list[tuple[str, Form]]:
    return [(f"{prefix}{name}", form) for name, form in READ_AT_IMPORT.items() for prefix in ("FAUST_", "F_")]


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
    except WrongSetting as error:
        sys.exit(str(error))
    from faust.cli.faust import cli  # noqa: PLC0415 - only now can it be imported

    cli()
