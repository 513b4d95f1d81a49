"""How a worker starts and ends: HTTP before Kafka, a line that says what it works with, and one that says why."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.harness import FAUST_WORKER, Api, RedisDatabase, TopicNames, Worker, wait_until
from tests.services.machine import CLONE
from tests.services.processes import free_port

LIVE_WITHIN_S = 20
#: What a Kafka that is away costs a shutdown is nothing; loaded machines are slow.
EXIT_WITHIN_S = 5
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) +(.*)")


def lines_of(worker: Worker) -> list[tuple[str, str]]:
    """Return level and text of each line, all of which must have the log's form."""
    found = [LINE.fullmatch(line) for line in worker.log_text().splitlines()]
    assert None not in found, worker.log_text()
    return [(match[1], match[2]) for match in found if match]


@pytest.fixture(params=["refuses", "is silent", "is not known"])
def absent_kafka(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Where a Kafka should be, and what the log is to say of it."""
    match request.param:
        case "refuses":
            yield f"127.0.0.1:{free_port()}", "connection refused"
        case "is silent":
            with closing(socket.create_server(("127.0.0.1", 0))) as server:
                yield f"127.0.0.1:{server.getsockname()[1]}", "no answer"
        case _:
            yield "kafka.invalid:9092", "name"


def test_kafka_is_away__lookups_are_answered_and_the_log_says_what_is_waited_for(
    absent_kafka: tuple[str, str], redis_db: RedisDatabase, tmp_path: Path
) -> None:
    address, why = absent_kafka
    with redis_db.connect() as client:
        client.hset("device:a:metadata", mapping={"datatype_id": "7", "last_updated": "2026-01-01T00:00:00.000000Z"})
    with Worker(tmp_path, TopicNames.unique(address).env() | redis_db.env()) as worker:
        api = Api(worker)

        def is_live() -> bool:
            try:
                return api.get("/health/live").status == 200
            except OSError:
                return False

        wait_until(is_live, LIVE_WITHIN_S, "HTTP")
        assert api.one("a").json["datatype_id"] == "7"
        assert api.get("/health/ready").status == 200
        assert api.get("/health/ingest").status == 503
        wait_until(lambda: "waiting for Kafka" in worker.log_text(), 20, "a line")
        began_s = time.monotonic()
        assert worker.terminate() == 0, worker.log_tail()
        assert time.monotonic() - began_s < EXIT_WITHIN_S
    (line,) = [text for level, text in lines_of(worker) if level == "WARNING"]
    for words in (address, why, "KAFKA_BOOTSTRAP_SERVERS", "lookups"):
        assert words in line
    assert {level for level, _ in lines_of(worker)} == {"INFO", "WARNING"}


def test_first_of_two_servers_is_silent__the_second_is_taken(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    topic_names.create(1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]},{topic_names.bootstrap}"
        env = topic_names.env() | redis_db.env() | {"KAFKA_BOOTSTRAP_SERVERS": servers}
        with Worker(tmp_path, env) as worker:
            worker.wait_ready(20)  # aiokafka would wait for the first for 90 s
            assert worker.terminate() == 0


def test_start_and_stop__are_a_line_that_says_what_it_works_with_and_two_that_say_goodbye(
    topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    topic_names.create(1)
    with Worker(tmp_path, topic_names.env() | redis_db.env()) as worker:
        worker.wait_ready()
        assert worker.terminate() == 0
    start, *end = [text for level, text in lines_of(worker) if level == "INFO"]
    for words in (
        f"stream_cache {version('stream-cache')} ",
        f"127.0.0.1 port {worker.web_port}",
        topic_names.bootstrap,
        topic_names.source,
        topic_names.errors,
        topic_names.group,
        f"{redis_db.host}:{redis_db.port}/{redis_db.number}",
    ):
        assert words in start
    assert end == ["stopping on SIGTERM", "exit 0: all that was taken is flushed"]


def test_debug__shows_what_faust_does_too(tmp_path: Path) -> None:
    with Worker(tmp_path, {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "LOG_LEVEL": "DEBUG"}) as worker:
        wait_until(lambda: "Producer: Starting..." in worker.log_text(), 20, "Faust's lines")


WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service", "--")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "port {port} is in use (WEB_PORT)"),
        ({"WEB_BIND": "192.0.2.1"}, "'192.0.2.1' is not an address of this machine (WEB_BIND)"),
        ({"WEB_BIND": "web.invalid"}, "'web.invalid' is not an address of this machine (WEB_BIND)"),
        ({"WEB_PORT": "1"}, "no permission to listen on port 1 (WEB_PORT): choose one from 1024 on"),
    ],
    ids=["in use", "of another machine", "no name", "privileged"],
)
def test_address_that_cannot_be_listened_on__exits_1_and_the_last_line_says_so(
    tmp_path: Path, env: Mapping[str, str], says: str
) -> None:
    if env.get("WEB_PORT") and int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("this machine lets everybody listen on any port")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = (*WITHOUT_PRIVILEGE, *FAUST_WORKER) if env.get("WEB_PORT") else FAUST_WORKER
        with Worker(tmp_path, {"WEB_PORT": str(port), **env}, command=command) as worker:
            assert worker.wait_exit(30) == 1
    assert lines_of(worker)[-1] == ("CRITICAL", f"exit 1: {says.format(port=port)}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=CLONE, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", [("-A", "stream_cache"), ("-Astream_cache",), ("--app=stream_cache",)])
def test_package_instead_of_the_app__is_a_line_that_says_what_to_type(option: Sequence[str]) -> None:
    ended = run("-m", "faust", *option, "worker")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.endswith("type: faust -A stream_cache.app worker")
    assert not ended.stdout


def test_command_line_alone__shows_help() -> None:
    ended = run("-m", "stream_cache")
    assert ended.returncode == 0
    assert "demo" in ended.stdout
    assert "faust -A stream_cache.app worker" in " ".join(ended.stdout.split())


def test_version__is_the_package_s() -> None:
    assert run("-m", "stream_cache", "--version").stdout == f"stream_cache {version('stream-cache')}\n"
