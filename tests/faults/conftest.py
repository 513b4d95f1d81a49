"""Services that a test may freeze and kill: none of them is the session's."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.harness import RedisDatabase, TopicNames
from tests.services import KafkaServer, RedisServer


@pytest.fixture
def scene(topic_names: TopicNames, redis_db: RedisDatabase, tmp_path: Path) -> Iterator[Scene]:
    """A scene on the session's services, for faults of workers and groups."""
    with Scene(topic_names, redis_db, tmp_path) as scene:
        yield scene


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it was told, whatever happens to it."""
    with RedisServer(tmp_path / "redis", args=("--appendonly", "yes", "--appendfsync", "always")) as server:
        yield server


@pytest.fixture
def redis_scene(topic_names: TopicNames, own_redis: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    """A scene on a Redis of its own."""
    with Scene(topic_names, RedisDatabase.of_url(own_redis.url), tmp_path) as scene:
        yield scene


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka for the module's tests, each of which leaves it running."""
    with KafkaServer(tmp_path_factory.mktemp("own-kafka"), properties={"log.cleaner.backoff.ms": 200}) as server:
        yield server


@pytest.fixture
def kafka_scene(own_kafka: KafkaServer, redis_db: RedisDatabase, tmp_path: Path) -> Iterator[Scene]:
    """A scene on a Kafka of its own."""
    with Scene(TopicNames.unique(own_kafka.bootstrap_servers), redis_db, tmp_path) as scene:
        yield scene


@pytest.fixture(autouse=True, scope="session")
def _collect_in_one_thread_only() -> Iterator[None]:
    """Let the collector run between tests alone, when no other thread does anything.

    librdkafka's client for Python may crash where it runs in one of several threads:
    confluentinc/confluent-kafka-python#1761.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def _collect_after_test(_collect_in_one_thread_only: None) -> Iterator[None]:
    yield
    gc.collect()
