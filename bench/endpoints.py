"""The real Kafka and the real Redis of a measurement, and topics of our own on them."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import AdminClient
from redis import Redis

from bench.workload import PARTITIONS, Expected, Workload, produce
from tests.harness import TopicNames, delete_topics
from tests.services import KafkaServer, RedisServer

DATABASE = 15  # of the Redis that TEST_REDIS_URL names, unless the URL names one itself


@dataclass(kw_only=True)
class Endpoints:
    """Where the services are. Every name that we make on them begins with `prefix`."""

    bootstrap_servers: str
    redis_url: str  # with the number of the database, which is ours alone
    directory: Path
    prefix: str = field(default_factory=lambda: f"bench_{uuid.uuid4().hex[:8]}")
    _names_made: int = 0

    def new_name(self, what: str) -> str:
        """Give a name for a topic or a group that nobody has used."""
        self._names_made += 1
        return f"{self.prefix}_{what}_{self._names_made}"

    def new_directory(self, what: str) -> Path:
        directory = self.directory / self.new_name(what)
        directory.mkdir(parents=True)
        return directory

    def redis(self) -> Redis:
        """Return a client that answers text; close it."""
        return Redis.from_url(self.redis_url, decode_responses=True)

    def create_topic(self, what: str) -> str:
        """Create an empty topic of 8 partitions, and the one for its bad records."""
        name = self.new_name(what)
        topic_names(self.bootstrap_servers, name, group="").create(PARTITIONS)
        return name

    def produce(self, workload: Workload) -> tuple[str, Expected]:
        """Produce a workload into a topic of its own."""
        topic = self.create_topic(workload.name)
        return topic, produce(workload, self.bootstrap_servers, topic)

    def delete_topics(self) -> None:
        """Delete every topic whose name begins with our prefix, those that Faust made among them."""
        existing = AdminClient({"bootstrap.servers": self.bootstrap_servers}).list_topics(timeout=10).topics
        delete_topics(self.bootstrap_servers, [name for name in existing if name.startswith(self.prefix)])


def topic_names(bootstrap_servers: str, topic: str, group: str) -> TopicNames:
    """Give the names that belong to a topic of ours."""
    return TopicNames(bootstrap_servers, topic, f"{topic}_errors", group)


@contextmanager
def running_services() -> Iterator[Endpoints]:
    """Start both services in a scratch folder, or use those of TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_REDIS_URL.

    A database that is not empty is refused, as each run flushes it.
    """
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="stream_cache_bench_"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        bootstrap_servers = os.environ.get("TEST_KAFKA_BOOTSTRAP_SERVERS")
        redis_url = os.environ.get("TEST_REDIS_URL")
        if not bootstrap_servers:
            bootstrap_servers = stack.enter_context(KafkaServer(directory / "kafka", heap_mb=1024)).bootstrap_servers
        if not redis_url:
            redis_url = stack.enter_context(RedisServer(directory / "redis")).url
        if redis_url.count("/") < 3:
            redis_url = f"{redis_url}/{DATABASE}"
        endpoints = Endpoints(bootstrap_servers=bootstrap_servers, redis_url=redis_url, directory=directory)
        with endpoints.redis() as client:
            if client.dbsize():
                raise SystemExit(f"TEST_REDIS_URL: database {redis_url} is not empty, and a benchmark would flush it")
            stack.callback(endpoints.delete_topics)
            yield endpoints
            client.flushdb()
