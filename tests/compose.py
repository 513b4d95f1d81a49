"""Reads the compose files as Compose does: no engine is asked."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.dockerfile import ROOT

# ${NAME:-default}, the only form of substitution that the files use; $$ is a plain $.
_SUBSTITUTION = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")


def read_services(environ: Mapping[str, str] | None = None, name: str = "docker-compose.yml") -> dict[str, Any]:
    """Return the services as resolved in an environment; a variable that is only handed on is None while unset."""
    set_here = {variable: text for variable, text in (environ or {}).items() if text}
    text = (ROOT / name).read_text(encoding="utf-8")
    text = _SUBSTITUTION.sub(lambda match: set_here.get(match["name"], match["default"]), text)
    assert "${" not in text
    services: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))["services"]
    for service in services.values():
        environment = service.get("environment", {})
        service["environment"] = {
            variable: set_here.get(variable) if value is None else str(value) for variable, value in environment.items()
        }
    return services
