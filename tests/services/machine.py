"""What the machine must have for the real services: found, or installed by apt where we are root."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
# A package that starts its service on installation asks this script first; 101 is "forbidden" (Debian policy 9.3.3).
POLICY_SCRIPT = Path("/usr/sbin/policy-rc.d")


class ServiceUnavailableError(Exception):
    """This machine lacks something that a real service needs; the text says what, and how to install it."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program that must be on PATH, in at least this major version, and the Debian package that brings it."""

    program: str
    package: str
    version_argument: str
    version_pattern: str
    min_version: int


JAVA = Tool(
    program="java",
    package="openjdk-17-jre-headless",
    version_argument="-version",
    version_pattern=r'version "(\d+)',
    min_version=17,  # what the brokers of Kafka 4 need
)
MAVEN = Tool(
    program="mvn",
    package="maven",
    version_argument="-version",
    version_pattern=r"Maven (\d+)",
    min_version=3,
)
REDIS = Tool(
    program="redis-server",
    package="redis-server",
    version_argument="--version",
    version_pattern=r"v=(\d+)",
    min_version=7,  # the first with shutdown-on-sigterm
)

OPENSSL = Tool(
    program="openssl",
    package="openssl",
    version_argument="version",
    version_pattern=r"OpenSSL (\d+)",
    min_version=3,
)


def ensure(tool: Tool) -> str:
    """Return the path of the tool's program, installing its package first where it is missing.

    Raises: ServiceUnavailableError where it can't be installed.
    """
    path = _find(tool)
    if path is None:
        _apt_install(tool)
        path = _find(tool)
    if path is None:
        raise ServiceUnavailableError(f"{_what_lacks(tool)}, and its package has brought an older one")
    return path


def cache_directory() -> Path:
    """Return the folder for what is fetched once: `.cache` in the clone, or STREAM_CACHE_TEST_CACHE."""
    return Path(os.environ.get("STREAM_CACHE_TEST_CACHE") or CLONE / ".cache")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file against other processes of this machine; it is freed with its holder, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find(tool: Tool) -> str | None:
    path = shutil.which(tool.program)
    if path is None:
        return None
    answer = subprocess.run(
        [path, tool.version_argument], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    version = re.search(tool.version_pattern, answer.stdout)
    return path if version and int(version[1]) >= tool.min_version else None


def _what_lacks(tool: Tool) -> str:
    return f"{tool.program} {tool.min_version} or later is missing (apt-get install {tool.package})"


def _apt_install(tool: Tool) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceUnavailableError(_what_lacks(tool))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", tool.package]
    with file_lock(cache_directory() / "apt.lock"), _no_service_starts():
        for command in (["apt-get", "update"], install):
            result = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if result.returncode:
                raise ServiceUnavailableError(
                    f"{_what_lacks(tool)}; {' '.join(command)} said:\n{result.stdout[-2000:]}"
                )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep packages from starting their services; a policy that the machine already has is left as it is."""
    if POLICY_SCRIPT.exists():
        yield
        return
    POLICY_SCRIPT.write_text("#!/bin/sh\nexit 101\n")
    POLICY_SCRIPT.chmod(0o755)
    try:
        yield
    finally:
        POLICY_SCRIPT.unlink()
