"""A program as a child process that can be stopped, killed and frozen, and that never outlives this process."""

import random
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.waiting import wait_until

# Below Linux's range of ephemeral ports (32768 and up): from that range, the port of a server that is down can be taken
# by any outgoing connection, even by a client's own attempt to reach that server, and the server can't come back.
PORTS = range(15000, 32000)

# The kernel kills the child when the *thread* that started it ends. Hence one thread that lives as long as we do.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_setpriv = shutil.which("setpriv")
_DIE_WITH_PARENT = (_setpriv, "--pdeathsig", "KILL", "--") if _setpriv else ()


class ChildExitedError(Exception):
    """A child that was waited for has ended; the text has its exit code and the end of its log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ChildProcess(ABC):
    """A program in a session of its own (a Ctrl-C reaches only us), its output in `{directory}/{name}.log`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.log_path = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the program."""

    @abstractmethod
    def what_lacks(self) -> str:
        """Say what is lacking until the program can be used; empty when nothing is."""

    def spawn(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = _spawner.submit(
                lambda: subprocess.Popen(
                    [*_DIE_WITH_PARENT, *command],
                    cwd=self.directory,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            ).result()

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until nothing lacks.

        Raises: TimeoutError, or ChildExitedError at once when the program ends; both show the end of its log.
        """
        lacking = ""

        def is_ready() -> bool:
            nonlocal lacking
            if not self.is_running:
                raise ChildExitedError(f"{self.name} exited with {self.exit_code}\n{self.log_tail()}")
            lacking = self.what_lacks()
            return not lacking

        try:
            wait_until(is_ready, timeout_s, f"{self.name} to be ready")
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} is not ready after {timeout_s:g} s: {lacking}\n{self.log_tail()}"
            ) from None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def wait_exit(self, timeout_s: float) -> int:
        """Wait until the program ends by itself, and return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s:g} s\n{self.log_tail()}") from None

    def terminate(self, timeout_s: float = 20) -> int:
        """Send SIGTERM, thawing what is frozen, and return the exit code: -9 when it had to be killed in the end."""
        self.process.terminate()
        self.thaw()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait()

    def freeze(self) -> None:
        """Halt it in the middle of whatever it does; its connections stay open, and the kernel accepts new ones."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Return the memory that is held now (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, line_count: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-line_count:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.terminate()


class Server(ChildProcess):
    """A service whose port and data outlive a restart."""

    port: int
    start_timeout_s = 60.0

    @abstractmethod
    def launch(self) -> None:
        """Spawn the program, without waiting for it."""

    def start(self) -> None:
        """Start it, and wait until it really answers."""
        self.launch()
        try:
            self.wait_ready(self.start_timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self.is_running:
            self.terminate()

    def restart(self) -> None:
        self.stop()
        self.start()
