"""`python -m stream_cache demo` does what its output says, and leaves nothing behind."""

import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from tests.waiting import wait_until

CLONE = Path(__file__).parents[2]
START_S = 60
STOP_S = 15
LIVE_LINE = re.compile(
    r" *(?P<rate>[\d,]+) readings/s, +(?P<devices>[\d,]+) devices, "
    r"fresh in +(?P<ms>\d+) ms \(max +\d+\), rejected (?P<published>[\d,]+)/(?P<bad>[\d,]+)"
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


class Demo:
    """A running demo in a folder of its own, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str]) -> None:
        temporary = folder / "tmp"
        self.cwd = folder / "cwd"
        self.folders = (temporary, self.cwd)
        for made in self.folders:
            made.mkdir(parents=True)
        inherited = {name: text for name, text in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream_cache", "demo", *arguments],
            cwd=self.cwd,
            env={**inherited, "PYTHONPATH": str(CLONE), "TMPDIR": str(temporary), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = Thread(target=self._read)
        self._reader.start()
        self.process_ids = {self._process.pid}

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self._process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str | re.Pattern[str], timeout_s: float = START_S) -> re.Match[str]:
        """Wait until a line matches, from its beginning; note which processes run then."""

        def found() -> re.Match[str] | None:
            self.note_processes()
            assert self._process.poll() is None, self.output
            return next((match for line in self.lines if (match := re.match(pattern, line))), None)

        try:
            match = wait_until(found, timeout_s, f"{pattern!r}")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.output}") from None
        assert match
        return match

    def note_processes(self) -> None:
        """Remember every process that descends from the demo now."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent_id = int(path.read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent_id in self.process_ids:
                self.process_ids.add(int(path.parent.name))

    def children_ids(self) -> set[int]:
        """Which of its children still run; those that ended but were not waited for don't."""
        return {pid for pid in self.process_ids - {self._process.pid} if _is_running(pid)}

    def noted_children_ids(self) -> set[int]:
        self.note_processes()
        return self.children_ids()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_exit(self, timeout_s: float = STOP_S) -> int:
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s} s\n{self.output}") from None
        self._reader.join(timeout_s)
        return code

    def left_files(self) -> list[Path]:
        return [path for folder in self.folders for path in folder.rglob("*")]

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def running_demo(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Demo]:
    demo = Demo(folder, *arguments, env=env or {})
    try:
        yield demo
    finally:
        demo.end()


def curl(line: str) -> str:
    """Do what a printed curl line does."""
    program, *words = shlex.split(line)
    assert program == "curl"
    assert words.pop(0) == "-sS"
    url, body = words[0], None
    if len(words) > 1:
        assert words[1] == "-d"
        body = words[2].encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def live_lines(demo: Demo) -> list[re.Match[str]]:
    return [match for line in demo.lines if (match := LIVE_LINE.fullmatch(line))]


def test_demo__shows_the_service_at_work_and_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--devices", "200", "--rate", "200") as demo:
        demo.wait_for("Once a second")
        assert "demo broker" in demo.output
        assert "never for production" in demo.output

        one, odd, bulk, some, metrics, ready = [line for line in demo.lines if line.startswith("  curl ")]
        assert json.loads(curl(one))["device_id"] == "greenhouse-07"
        assert "%2F" in odd
        assert json.loads(curl(odd))["device_id"] == "meter/4:B"
        answer = json.loads(curl(bulk))
        assert [device["device_id"] for device in answer["devices"]] == ["greenhouse-07", "meter/4:B", "buoy-é-12"]
        assert answer["missing"] == ["no such device"]
        wait_until(lambda: len(json.loads(curl(some))["devices"]) == 5, 10, "a page of five devices")
        assert "stream_cache_records_total" in curl(metrics)
        assert json.loads(curl(ready))["status"] == "ready"

        def last_live_line() -> re.Match[str] | None:
            lines = live_lines(demo)
            return lines[-1] if len(lines) >= 5 and lines[-1]["published"] != "0" else None

        shown = wait_until(last_live_line, 30, "five live lines, and a bad reading published")
        assert shown
        assert int(shown["rate"]) > 0
        assert 100 < int(shown["devices"]) <= 200

        worker_log = Path(demo.wait_for(r".*the worker's log: (.*)")[1])
        assert "serves HTTP" in worker_log.read_text()
        assert len(demo.children_ids()) == 2, "a worker and a redis-server"

        demo.send_signal(signal.SIGINT)
        assert demo.wait_exit() == 0, demo.output
        assert demo.lines[-1] == "Stopped."
        assert not demo.children_ids()
        assert not demo.left_files()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo__stopped_while_it_starts_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with running_demo(tmp_path) as demo:
        wait_until(demo.noted_children_ids, START_S, "a child")
        demo.send_signal(number)
        assert demo.wait_exit() == 0, demo.output
        assert not demo.noted_children_ids()
        assert not demo.left_files()


def test_demo__killed_leaves_no_process(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--devices", "20", "--rate", "50") as demo:
        demo.wait_for("Once a second")
        assert len(demo.children_ids()) == 2
        demo.send_signal(signal.SIGKILL)
        demo.wait_exit()
        wait_until(lambda: not demo.children_ids(), 5, "the children to be gone")


@pytest.mark.parametrize("program", ["redis", "worker"])
def test_demo__says_why_it_ends_when_a_child_dies(tmp_path: Path, program: str) -> None:
    word = {"redis": "redis-server", "worker": "faust"}[program]
    with running_demo(tmp_path, "--devices", "20", "--rate", "50") as demo:
        demo.wait_for("Once a second")
        (victim,) = [pid for pid in demo.children_ids() if word in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(victim, signal.SIGKILL)
        assert demo.wait_exit(20) == 1, demo.output
        assert f"{program} has ended with exit code -9; its log ends with" in demo.output
        assert not demo.children_ids()
        assert not demo.left_files()


def test_demo__fleet_alone_at_running_services(tmp_path: Path) -> None:
    """With --kafka and --redis: only the fleet and its live line, here at another demo's services."""
    with running_demo(tmp_path / "first", "--devices", "10", "--rate", "20") as first:
        addresses = first.wait_for(r"Kafka (\S+), Redis (\S+)")
        first.wait_for("Once a second")
        at_first = ("--kafka", addresses[1], "--redis", addresses[2])
        with running_demo(tmp_path / "second", *at_first, "--devices", "150") as fleet:
            fleet.wait_for(LIVE_LINE)
            assert not fleet.children_ids()
            assert wait_until(lambda: any(int(line["devices"]) >= 140 for line in live_lines(fleet)), 30, "its devices")
            fleet.send_signal(signal.SIGTERM)
            assert fleet.wait_exit() == 0, fleet.output
            assert not fleet.left_files()


def test_demo__another_port_when_the_usual_is_taken(tmp_path: Path) -> None:
    """And settings of the environment that are meant for another Redis or Kafka do not reach the demo's worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"WEB_PORT": port, "REDIS_PASSWORD": "other", "KAFKA_VALIDATED_DATA_TOPIC": "other"}
        with running_demo(tmp_path, "--devices", "10", "--rate", "20", env=env) as demo:
            demo.wait_for("Once a second")
            above, line = next(pair for pair in itertools.pairwise(demo.lines) if pair[1].startswith("  curl "))
            assert f"port {port} is taken" in above, "said where it is needed"
            assert "WEB_PORT=" in above
            assert f":{port}/" not in line
            assert json.loads(curl(line))["device_id"] == "greenhouse-07"
            demo.send_signal(signal.SIGINT)
            assert demo.wait_exit() == 0, demo.output


def test_demo__says_what_does_not_answer(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--kafka", "127.0.0.1:1", "--redis", "127.0.0.1:1") as demo:
        assert demo.wait_exit(40) == 1
        assert "Kafka at 127.0.0.1:1 does not answer" in demo.lines[-1]
