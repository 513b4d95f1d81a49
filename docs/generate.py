# ruff: noqa: INP001 - a program for `make docs`, not a package
"""Write what is made from the settings: README's table, `.env.example`, compose's list of variables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stream_cache.environment import Area, Variable, expected, variables
from stream_cache.settings import AREAS, VARIABLES

ROOT = Path(__file__).parents[1]
_ENV_HEAD = """\
# Every setting of the service, with its default. Made by `make docs`.
# Copy to .env, which docker-compose.yml reads, and take the # away where you set one; without Docker:
#   set -a; . ./.env; set +a; faust -A stream_cache.app worker -l info
"""


def render() -> dict[Path, str]:
    """Return each file's text, by its path."""
    readme, compose = ROOT / "README.md", ROOT / "docker-compose.yml"
    names = (f"      {name}:" for variable in VARIABLES for name in variable.names)
    return {
        ROOT / ".env.example": "\n".join([_ENV_HEAD, *_env_lines()]),
        readme: _replace(readme, "<!-- settings, made by `make docs` -->", "<!-- end of settings -->", _table()),
        compose: _replace(compose, "# Settings, made by `make docs`: each one", "      # End of settings.", names),
    }


def _replace(path: Path, begin: str, end: str, lines: Iterator[str]) -> str:
    """Return a file's text with other lines between the line with `begin` and the one with `end`."""
    head, mark, rest = path.read_text(encoding="utf-8").partition(begin)
    first, _, rest = rest.partition("\n")
    _, end, tail = rest.partition(end)
    if not mark or not end:
        raise ValueError(f"{path} has lost its marks")
    return "\n".join([f"{head}{mark}{first}", *lines, f"{end}{tail}"])


def _env_lines() -> Iterator[str]:
    for area in AREAS:
        yield f"# --- {_title(area)} ---\n"
        for variable in variables(area):
            yield f"# {variable.sentence}; {expected(variable.kind)}."
            yield f"#{variable.name}={_text(variable.default)}"
            if variable.is_secret:
                yield f"# Or the path of a file that holds it.\n#{variable.name}_FILE="
        yield ""


def _table() -> Iterator[str]:
    yield "| variable | default | what it does |\n|---|---|---|"
    for area in AREAS:
        yield f"| **{_title(area)}** | | |"
        yield from (_row(variable) for variable in variables(area))


def _row(variable: Variable) -> str:
    names = ", ".join(f"`{name}`" for name in variable.names)
    return f"| {names} | {_text(variable.default)} | {variable.sentence} |"


def _title(area: type[Area]) -> str:
    return (area.__doc__ or "").removesuffix(".")


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
