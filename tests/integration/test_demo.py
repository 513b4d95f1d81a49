"""`python -m stream_cache demo` does what its output says, and leaves nothing behind."""

import itertools
import json
import os
import re
import shlex
import signal
import socket
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.services.machine import CLONE
from tests.services.processes import ChildProcess
from tests.waiting import wait_until

STOP_S = 15
LIVE_LINE = re.compile(
    r" *(?P<rate>[\d,]+) readings/s, +(?P<devices>[\d,]+) devices, "
    r"fresh in +\d+ ms \(max +\d+\), rejected (?P<published>[\d,]+)/[\d,]+$"
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


class Demo(ChildProcess):
    """A demo in a folder of its own, what it prints, and every process that descends from it."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__("demo", folder / "cwd")
        self.log_path = folder / "demo.log"
        self._temporary = folder / "tmp"
        self._arguments, self._env = arguments, env or {}
        self._process_ids: set[int] = set()

    def start(self) -> None:
        self._temporary.mkdir(parents=True)
        inherited = {name: text for name, text in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        ours = {"PYTHONPATH": str(CLONE), "TMPDIR": str(self._temporary)}
        self.spawn([sys.executable, "-m", "stream_cache", "demo", *self._arguments], {**inherited, **ours, **self._env})
        self._process_ids = {self.pid}

    def what_lacks(self) -> str:
        self.children_ids()
        return "" if self.matches("Once a second") else "its live line"

    def matches(self, pattern: str | re.Pattern[str]) -> list[re.Match[str]]:
        """Return the lines that match, from their beginning."""
        return [match for line in self.lines if (match := re.match(pattern, line))]

    @property
    def lines(self) -> list[str]:
        return self.log_text().splitlines()

    def children_ids(self) -> set[int]:
        """Return which of its descendants run that were ever seen; those that ended but were not waited for don't."""
        running: set[int] = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, (state, parent_id) = int(path.parent.name), path.read_text().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if pid in self._process_ids or int(parent_id) in self._process_ids:
                self._process_ids.add(pid)
                running |= {pid} if state != "Z" else set()
        return running - {self.pid}

    def assert_gone(self) -> None:
        """Check that neither processes nor files are left."""
        assert not self.children_ids()
        assert [path for folder in (self._temporary, self.directory) for path in folder.rglob("*")] == []


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


def test_demo__shows_the_service_at_work_and_leaves_nothing(tmp_path: Path) -> None:
    with Demo(tmp_path, "--devices", "200", "--rate", "200") as demo:
        demo.wait_ready()
        assert "demo broker" in demo.log_text()
        assert "never for production" in demo.log_text()

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

        def has_shown_enough() -> bool:
            lines = demo.matches(LIVE_LINE)
            return len(lines) >= 5 and lines[-1]["published"] != "0"

        wait_until(has_shown_enough, 30, "five live lines, and a bad reading published")
        shown = demo.matches(LIVE_LINE)[-1]
        assert int(shown["rate"]) > 0
        assert 100 < int(shown["devices"]) <= 200

        (found,) = demo.matches(r".*the worker's log: (.*)")
        assert "serves HTTP" in Path(found[1]).read_text()
        assert len(demo.children_ids()) == 2, "a worker and a redis-server"

        demo.process.send_signal(signal.SIGINT)
        assert demo.wait_exit(STOP_S) == 0, demo.log_text()
        assert demo.lines[-1] == "Stopped."
        demo.assert_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo__stopped_while_it_starts_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with Demo(tmp_path) as demo:
        wait_until(demo.children_ids, 60, "a child")
        demo.process.send_signal(number)
        assert demo.wait_exit(STOP_S) == 0, demo.log_text()
        demo.assert_gone()


def test_demo__killed_leaves_no_process(tmp_path: Path) -> None:
    with Demo(tmp_path, "--devices", "20", "--rate", "50") as demo:
        demo.wait_ready()
        assert len(demo.children_ids()) == 2
        demo.kill()
        wait_until(lambda: not demo.children_ids(), 5, "the children to be gone")


@pytest.mark.parametrize("program", ["redis", "worker"])
def test_demo__says_why_it_ends_when_a_child_dies(tmp_path: Path, program: str) -> None:
    word = {"redis": "redis-server", "worker": "faust"}[program]
    with Demo(tmp_path, "--devices", "20", "--rate", "50") as demo:
        demo.wait_ready()
        (victim,) = [pid for pid in demo.children_ids() if word in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(victim, signal.SIGKILL)
        assert demo.wait_exit(20) == 1, demo.log_text()
        assert f"{program} has ended with exit code -9; its log ends with" in demo.log_text()
        demo.assert_gone()


def test_demo__fleet_alone_at_running_services(tmp_path: Path) -> None:
    """With --kafka and --redis: only the fleet and its live line, here at another demo's services."""
    with Demo(tmp_path / "first", "--devices", "10", "--rate", "20") as first:
        first.wait_ready()
        (addresses,) = first.matches(r"Kafka (\S+), Redis (\S+)")
        at_first = ("--kafka", addresses[1], "--redis", addresses[2])
        with Demo(tmp_path / "second", *at_first, "--devices", "150") as fleet:
            wait_until(lambda: any(int(of["devices"]) >= 140 for of in fleet.matches(LIVE_LINE)), 60, "its devices")
            assert not fleet.children_ids()
            assert fleet.terminate() == 0, fleet.log_text()
            fleet.assert_gone()


def test_demo__another_port_when_the_usual_is_taken(tmp_path: Path) -> None:
    """And settings of the environment that are meant for another Redis or Kafka do not reach the demo's worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"WEB_PORT": port, "REDIS_PASSWORD": "other", "KAFKA_VALIDATED_DATA_TOPIC": "other"}
        with Demo(tmp_path, "--devices", "10", "--rate", "20", env=env) as demo:
            demo.wait_ready()
            above, line = next(pair for pair in itertools.pairwise(demo.lines) if pair[1].startswith("  curl "))
            assert f"port {port} is taken" in above, "said where it is needed"
            assert "WEB_PORT=" in above
            assert f":{port}/" not in line
            assert json.loads(curl(line))["device_id"] == "greenhouse-07"


def test_demo__says_what_does_not_answer(tmp_path: Path) -> None:
    with Demo(tmp_path, "--kafka", "127.0.0.1:1", "--redis", "127.0.0.1:1") as demo:
        assert demo.wait_exit(40) == 1
        assert "Kafka at 127.0.0.1:1 does not answer" in demo.lines[-1]
