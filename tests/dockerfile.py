"""Reads docker/Dockerfile and .dockerignore as far as the tests need them: no engine is asked."""

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Instruction:
    """One line of the Dockerfile, its continuations joined: `RUN`, and what is run."""

    name: str
    arguments: str


def read_stages() -> list[list[Instruction]]:
    """Return the Dockerfile's stages, each from its FROM on."""
    lines = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    stages: list[list[Instruction]] = []
    for line in text.replace("\\\n", " ").splitlines():
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append(Instruction(name, arguments.strip()))
    return stages


def last(stage: list[Instruction], name: str) -> str:
    """Return the arguments of the stage's last instruction of that name: the one that counts."""
    return [instruction.arguments for instruction in stage if instruction.name == name][-1]


def exec_form(arguments: str) -> list[str]:
    """Return the words of a CMD in the exec form. Raises: ValueError for the shell form."""
    words: list[str] = json.loads(arguments)
    return words


def is_in_context(path: str) -> bool:
    """Return whether .dockerignore lets a file through to the build; the last pattern that fits decides."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        prefixes = ["/".join(parts[: length + 1]) for length in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(
                prefix.count("/") == pattern.count("/") and fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes
            )
        if fits:
            is_in = line.startswith("!")
    return is_in
