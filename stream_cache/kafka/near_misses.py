"""Variables that look like settings and are none: a typing error, or a setting of another version."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import faust

from stream_cache.environment import SERVICE_LINK
from stream_cache.kafka.faust_command import READ_AT_IMPORT
from stream_cache.settings import VARIABLES

_PREFIXES = ("KAFKA_", "REDIS_", "WEB_", "FAUST_")
#: What Kubernetes sets in every container for each Service of its namespace: for one called `redis`,
#: REDIS_SERVICE_HOST, REDIS_SERVICE_PORT_HTTP, REDIS_PORT_6379_TCP_ADDR and more (REDIS_PORT shows by what it holds).
_OF_SERVICE_LINKS = re.compile(r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
_OTHERS_OF_FAUST = {"DEBUG", "DATADIR", "STRICT", "FORCE_BLOCKING_TIMEOUT"}  # read at import, whatever they hold


def near_misses(environ: Mapping[str, str]) -> str:
    """Return one line that names the variables of our prefixes that nothing reads; empty where there are none."""
    known = _known_variables()
    unknown = [
        _name_with_suggestion(variable, known)
        for variable, text in sorted(environ.items())
        if variable.startswith(_PREFIXES) and variable not in known and not _is_service_link(variable, text)
    ]
    return f"unknown settings are ignored: {', '.join(unknown)}" if unknown else ""


def _known_variables() -> set[str]:
    of_faust = {setting.env_name for setting in faust.Settings.SETTINGS.values() if setting.env_name}
    return {name for variable in VARIABLES for name in variable.names} | {
        f"FAUST_{name}" for name in of_faust | READ_AT_IMPORT.keys() | _OTHERS_OF_FAUST
    }


def _is_service_link(variable: str, text: str) -> bool:
    is_link = _OF_SERVICE_LINKS.fullmatch(variable)
    return bool(is_link or (variable.endswith("_PORT") and SERVICE_LINK.match(text)))


def _name_with_suggestion(variable: str, known: set[str]) -> str:
    alike = difflib.get_close_matches(variable, known, n=1, cutoff=0.7)
    return f"{variable} (did you mean {alike[0]}?)" if alike else variable
