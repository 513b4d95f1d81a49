"""What tests, fault tests and benchmarks share: real workers, and a view of Kafka and Redis from outside."""

import http.client
import json
import os
import ssl
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import redis
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests import oracle
from tests.services.machine import CLONE
from tests.services.processes import ChildProcess, free_port
from tests.waiting import wait_until, wait_until_async

__all__ = [
    "FAUST_WORKER",
    "Answer",
    "Api",
    "Record",
    "RedisDatabase",
    "Rejected",
    "TopicNames",
    "Worker",
    "committed_offsets",
    "consume_all",
    "create_topics",
    "delete_topics",
    "end_offsets",
    "faust_worker",
    "lag",
    "produce",
    "wait_until",
    "wait_until_async",
]


def faust_worker(app: str) -> Sequence[str]:
    """Return the command that starts a worker of this app, the service's or one made around it."""
    return sys.executable, "-m", "faust", "-A", app, "worker", "-l", "info"


FAUST_WORKER = faust_worker("stream_cache.app")
# A worker inherits only these, so that a stray setting in a shell can't change a test.
INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
REQUEST_TIMEOUT_S = 10.0
LEADER_WITHIN_S = 30.0
QUEUED_RECORD_COUNT = 100_000
PARTITION_OF_KEY = -1  # librdkafka's RD_KAFKA_PARTITION_UA


class Worker(ChildProcess):
    """A real worker in a process of its own; `env` holds its settings, WEB_PORT is chosen where it is absent.

    `start()` doesn't wait: `wait_ready()` does, until `/health/ingest` says 200: it has joined its group.
    """

    def __init__(
        self, directory: Path, env: Mapping[str, str], *, name: str = "worker", command: Sequence[str] = FAUST_WORKER
    ) -> None:
        super().__init__(name, directory)
        inherited = {k: v for k, v in os.environ.items() if k in INHERITED_VARIABLES or k.startswith("COVERAGE_")}
        ours = {"PYTHONPATH": str(CLONE), "PYTHONUNBUFFERED": "1", "WEB_BIND": "127.0.0.1"}
        self.env = {**inherited, **ours, **env}
        self.web_port = int(self.env.setdefault("WEB_PORT", str(free_port())))
        self._command = command

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def start(self) -> None:
        self.spawn(self._command, self.env)

    def get(self, path: str, *, timeout_s: float = 5) -> tuple[int, bytes]:
        """Return the status and the body of a GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def what_lacks(self) -> str:
        try:
            status, body = self.get("/health/ingest")
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        return "" if status == http.HTTPStatus.OK else f"{status} {body.decode(errors='replace')}"


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """A worker, asked over HTTP."""

    def __init__(self, worker: Worker, tls: ssl.SSLContext | None = None) -> None:
        self.worker, self._tls = worker, tls

    def connect(self, timeout_s: float = 20) -> http.client.HTTPConnection:
        """Return a connection that connects by itself; close it."""
        if self._tls:
            return http.client.HTTPSConnection("127.0.0.1", self.worker.web_port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection("127.0.0.1", self.worker.web_port, timeout=timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 20,
    ) -> Answer:
        connection = self.connect(timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def one(self, device_id: str) -> Answer:
        return self.get(f"/devices/{quote(device_id, safe='')}/metadata")

    def bulk(self, device_ids: object) -> Answer:
        return self.ask("POST", "/devices/metadata", json.dumps({"device_ids": device_ids}).encode())

    def error(self, answer: Answer, status: int, code: str) -> str:
        """Check that it is an error in the contract's form, and return its message."""
        assert answer.status == status, answer.body[:500]
        assert answer.headers["Content-Type"].startswith("application/json")
        assert set(answer.json) == {"error"}
        assert set(answer.json["error"]) == {"code", "message"}
        assert answer.json["error"]["code"] == code
        message = answer.json["error"]["message"]
        assert isinstance(message, str)
        assert message
        assert "Traceback" not in message
        return message


class Rejected(NamedTuple):
    """An error record."""

    key: bytes | None
    value: dict[str, Any]


@dataclass(frozen=True)
class TopicNames:
    """Topics and a consumer group that nobody else uses."""

    bootstrap: str
    source: str
    errors: str
    group: str

    @classmethod
    def unique(cls, bootstrap: str) -> "TopicNames":
        tag = uuid.uuid4().hex[:12]
        return cls(bootstrap, f"iot_validated_data-{tag}", f"iot_errors-{tag}", f"cache_service_group-{tag}")

    def create(self, partition_count: int = 4) -> None:
        """Create both topics, the one for errors with one partition."""
        create_topics(self.bootstrap, {self.source: partition_count, self.errors: 1})

    def env(self) -> dict[str, str]:
        """Return the worker's settings for them."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_VALIDATED_DATA_TOPIC": self.source,
            "KAFKA_ERROR_TOPIC": self.errors,
            "KAFKA_CONSUMER_GROUP_ID": self.group,
        }

    def produce(self, records: Sequence[oracle.Record]) -> list[oracle.Record]:
        """Send records to their partitions, and return them with the offsets that they got."""
        sent = [Record(r.value, r.key, r.partition, r.timestamp_ms) for r in records]
        places = produce(self.bootstrap, self.source, sent)
        return [replace(record, offset=offset) for record, (_, offset) in zip(records, places, strict=True)]

    def wait_caught_up(self, timeout_s: float = 60) -> None:
        """Wait until the group has committed all that the source topic holds."""
        wait_until(lambda: lag(self.bootstrap, self.group, self.source) == 0, timeout_s, "the lag to become 0")

    def rejected(self) -> dict[tuple[int, int], Rejected]:
        """Return what the error topic holds, each once, by partition and offset of the record that it is about."""
        found: dict[tuple[int, int], Rejected] = {}
        for message in consume_all(self.bootstrap, self.errors):
            headers: dict[str, Any] = dict(message.headers() or [])
            place = int(headers["source.partition"]), int(headers["source.offset"])
            assert place not in found
            found[place] = Rejected(message.key(), json.loads(message.value() or b""))
        return found


@dataclass(frozen=True)
class RedisDatabase:
    """One numbered database of a Redis server."""

    host: str
    port: int
    number: int
    password: str

    @classmethod
    def of_url(cls, url: str, number: int | None = None) -> "RedisDatabase":
        """Take the database's number from the URL's path where none is given, 0 where it has none."""
        parts = urlsplit(url)
        if number is None:
            number = int(parts.path.strip("/") or 0)
        return cls(parts.hostname or "127.0.0.1", parts.port or 6379, number, unquote(parts.password or ""))

    @property
    def url(self) -> str:
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}{self.host}:{self.port}/{self.number}"

    def connect(self) -> redis.Redis:
        """Return a synchronous client that answers bytes; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def env(self) -> dict[str, str]:
        """Return the worker's settings for it."""
        return {
            "REDIS_HOST": self.host,
            "REDIS_PORT": str(self.port),
            "REDIS_DB": str(self.number),
            "REDIS_PASSWORD": self.password,
        }


class Record(NamedTuple):
    """What is to be produced; without a partition the key decides as in Java's client, without a time it is now."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def create_topics(bootstrap: str, partition_counts: Mapping[str, int]) -> None:
    """Create the topics, and wait until every partition has its leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = [NewTopic(name, num_partitions=count, replication_factor=1) for name, count in partition_counts.items()]
    for created in admin.create_topics(topics).values():
        created.result(REQUEST_TIMEOUT_S)

    def are_led() -> bool:
        known = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        return all(
            name in known and [p.leader >= 0 for p in known[name].partitions.values()] == [True] * count
            for name, count in partition_counts.items()
        )

    wait_until(are_led, REQUEST_TIMEOUT_S, f"leaders of {', '.join(partition_counts)}")


def delete_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Delete those of the topics that exist."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    existing = [name for name in names if name in admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics]
    if existing:
        for deleted in admin.delete_topics(existing).values():
            deleted.result(REQUEST_TIMEOUT_S)


def produce(
    bootstrap: str, topic: str, records: Iterable[Record], *, timeout_s: float = 60, codec: str = "gzip"
) -> list[tuple[int, int]]:
    """Produce in order, compressed and with acks=all, as the normalizer does.

    Returns: partition and offset of each record, in the order given.
    Raises: KafkaException for the first record that was refused; TimeoutError when not all were told of in time.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,  # keeps the order over retries, and implies acks=all
            "compression.type": codec,
            "compression.level": 1,  # twice as fast as the default
            "partitioner": "murmur2_random",
            "log_level": 3,  # errors: the first use of a new broker warns of a retry
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": QUEUED_RECORD_COUNT,
        }
    )
    places: dict[int, tuple[int, int]] = {}
    refusals: list[KafkaError] = []

    def note(index: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            refusals.append(error)
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None  # told by every report of success
        assert offset is not None
        places[index] = (partition, offset)

    count = 0
    for count, record in enumerate(records, start=1):
        while len(producer) >= QUEUED_RECORD_COUNT:
            producer.poll(0.1)
        producer.produce(
            topic,
            value=record.value,
            key=record.key,
            partition=PARTITION_OF_KEY if record.partition is None else record.partition,
            timestamp=record.timestamp_ms or 0,  # 0 is now
            headers=list(record.headers),
            on_delivery=partial(note, count),
        )
        if count % 1000 == 0:
            producer.poll(0)
    untold = producer.flush(timeout_s)
    if refusals:
        raise KafkaException(refusals[0])
    if untold:
        raise TimeoutError(f"{untold} of {count} records for {topic} are not acknowledged after {timeout_s:g} s")
    return [places[index] for index in sorted(places)]


def consume_all(bootstrap: str, topic: str, *, timeout_s: float = 60) -> list[Message]:
    """Return every committed record from each partition's beginning to its end, in order within a partition."""
    messages: list[Message] = []
    with _consumer(bootstrap, "nobody") as consumer:
        unread = set(_partitions(consumer, topic))
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in unread])

        def read() -> bool:
            for message in consumer.consume(10_000, timeout=0.1):
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                else:
                    raise KafkaException(error)
            return not unread

        wait_until(read, timeout_s, f"the end of {topic}", interval_s=0)
    return messages


def committed_offsets(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """Return the group's offset per partition; a partition without a commit is left out."""

    def read(consumer: Consumer) -> dict[int, int]:
        partitions = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
        committed = consumer.committed(partitions, timeout=REQUEST_TIMEOUT_S)
        for place in committed:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in committed if place.offset >= 0}

    return _patiently(bootstrap, group, read)


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Return the offset per partition that the next record would get."""

    def read(consumer: Consumer) -> dict[int, int]:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REQUEST_TIMEOUT_S)[1]
            for partition in _partitions(consumer, topic)
        }

    return _patiently(bootstrap, "nobody", read)


def lag(bootstrap: str, group: str, topic: str) -> int:
    """Return how many offsets of the topic, read from its very first, the group has not committed."""
    committed = committed_offsets(bootstrap, group, topic)
    return sum(end - committed.get(partition, 0) for partition, end in end_offsets(bootstrap, topic).items())


@contextmanager
def _consumer(bootstrap: str, group: str) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _patiently(bootstrap: str, group: str, read: Callable[[Consumer], dict[int, int]]) -> dict[int, int]:
    """Read again for a while where the broker refuses: when it has just started, or made a partition, nobody leads."""
    deadline_s = time.monotonic() + LEADER_WITHIN_S
    with _consumer(bootstrap, group) as consumer:
        while True:
            try:
                return read(consumer)
            except KafkaException:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    metadata = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)
