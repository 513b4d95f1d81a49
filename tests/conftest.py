"""Fixtures: a real Kafka and a real Redis for the session, own topics and an own database for each test.

A service that the machine lacks fails the test under CI and skips it elsewhere.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.harness import RedisDatabase, TopicNames, delete_topics
from tests.services import KafkaServer, RedisServer, ServiceUnavailableError
from tests.services.redis import DATABASE_COUNT

KAFKA_VARIABLE = "TEST_KAFKA_BOOTSTRAP_SERVERS"
REDIS_VARIABLE = "TEST_REDIS_URL"
_numbers = itertools.cycle(range(DATABASE_COUNT))


class Kafka(Protocol):
    """A Kafka, started by us or not."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True)
class ForeignKafka:
    bootstrap_servers: str


@contextmanager
def _needed(variable: str) -> Iterator[None]:
    try:
        yield
    except ServiceUnavailableError as error:
        reason = f"{error}; or name a running one in {variable}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The session's Kafka: not to be stopped or frozen, a fault test starts its own `KafkaServer`."""
    if address := os.environ.get(KAFKA_VARIABLE):
        yield ForeignKafka(address)
        return
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    with _needed(KAFKA_VARIABLE):
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The session's own Redis; whoever freezes or restarts it leaves it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    with _needed(REDIS_VARIABLE):
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    if url := os.environ.get(REDIS_VARIABLE):
        return url
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def topic_names(kafka: Kafka) -> Iterator[TopicNames]:
    """Names of the test's own; `create(partition_count)` makes the topics, the end of the test deletes them."""
    names = TopicNames.unique(kafka.bootstrap_servers)
    yield names
    delete_topics(names.bootstrap, (names.source, names.errors))


@pytest.fixture
def redis_db(redis_url: str) -> Iterator[RedisDatabase]:
    """An empty database. On a server that is not ours it is the URL's, and it must be empty to begin with."""
    is_foreign = bool(os.environ.get(REDIS_VARIABLE))
    database = RedisDatabase.of_url(redis_url, None if is_foreign else next(_numbers))
    with database.connect() as client:
        if is_foreign and client.dbsize():
            pytest.fail(f"{REDIS_VARIABLE} names database {database.number}, which is not empty", pytrace=False)
        client.flushdb()
        yield database
        client.flushdb()
