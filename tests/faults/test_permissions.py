"""What a broker with an authorizer refuses is named, waited for, and gone on with when it is granted."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.faults.scene import Scene, checks
from tests.harness import RedisDatabase, TopicNames, Worker, wait_until
from tests.services import KafkaServer

SAID_WITHIN_S = 15
US, SOMEBODY_ELSE = "User:ANONYMOUS", "User:somebody-else"


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka where everybody may do what no ACL speaks of. Where one does, only those whom it names may."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaServer(tmp_path_factory.mktemp("guarded-kafka"), properties=properties) as server:
        yield server


@pytest.fixture
def guarded(guarded_kafka: KafkaServer, redis_db: RedisDatabase, tmp_path: Path) -> Iterator[Scene]:
    """A scene with 1,000 readings on that Kafka; the watchdog would soon end a worker that it takes for stalled."""
    topics = TopicNames.unique(guarded_kafka.bootstrap_servers)
    env = {"STALL_TIMEOUT_S": "2", "STALL_EXIT_S": "2"}
    with Scene(topics, redis_db, tmp_path, env=env) as scene:
        scene.ledger.produce(itertools.islice(scene.drafts(1), 1_000))
        yield scene


def allow_only(scene: Scene, kind: ResourceType, name: str, right: AclOperation, *, to: str = SOMEBODY_ELSE) -> None:
    binding = AclBinding(kind, name, ResourcePatternType.LITERAL, to, "*", right, AclPermissionType.ALLOW)
    admin = AdminClient({"bootstrap.servers": scene.topics.bootstrap})
    for created in admin.create_acls([binding]).values():
        created.result(10)


def grant_all(scene: Scene, kind: ResourceType, name: str) -> None:
    every = AclBindingFilter(
        kind, name, ResourcePatternType.LITERAL, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    admin = AdminClient({"bootstrap.servers": scene.topics.bootstrap})
    for deleted in admin.delete_acls([every]).values():
        deleted.result(10)


def assert_waits_in_the_open(worker: Worker, check: str, *words: str) -> None:
    """Hold that body and log say these words of that check, and that lookups, and the process, go on."""

    def is_said() -> bool:
        return all(word in checks(worker)[check] for word in words)

    wait_until(lambda: not worker.what_lacks().startswith("Conn"), 30, "HTTP to be served")
    wait_until(is_said, SAID_WITHIN_S, f"{check} to say {words}")
    wait_until(lambda: any(all(word in line for word in words) for line in lines(worker)), SAID_WITHIN_S, "a line")
    assert worker.get("/health/ingest")[0] == 503
    assert worker.get("/health/ready")[0] == 200
    assert worker.get("/devices/nosuch/metadata")[0] == 404


def assert_is_no_stall(worker: Worker) -> None:
    with pytest.raises(TimeoutError):  # the watchdog would bark after 2 s, and bite after 4
        wait_until(lambda: worker.get("/health/live")[0] != 200 or not worker.is_running, 6, "a false alarm")


def lines(worker: Worker) -> list[str]:
    return worker.log_text().splitlines()


def test_group_not_allowed_at_the_start(guarded: Scene) -> None:
    allow_only(guarded, ResourceType.GROUP, guarded.topics.group, AclOperation.ALL)
    worker = guarded.add_worker()
    words = guarded.topics.group, "KAFKA_CONSUMER_GROUP_ID", "not allowed", "READ"
    assert_waits_in_the_open(worker, "group", *words)
    assert_is_no_stall(worker)
    grant_all(guarded, ResourceType.GROUP, guarded.topics.group)
    guarded.assert_nothing_lost()
    worker.wait_ready(10)


def test_group_not_allowed_any_more(guarded: Scene) -> None:
    (worker,) = guarded.start_workers()
    guarded.wait_caught_up()
    allow_only(guarded, ResourceType.GROUP, guarded.topics.group, AclOperation.ALL)
    guarded.ledger.produce(itertools.islice(guarded.drafts(2), 1_000))
    words = guarded.topics.group, "KAFKA_CONSUMER_GROUP_ID", "not allowed", "READ"
    assert_waits_in_the_open(worker, "group", *words)
    grant_all(guarded, ResourceType.GROUP, guarded.topics.group)
    guarded.assert_nothing_lost()
    worker.wait_ready(10)


def test_group_of_another_kind_of_member(guarded: Scene) -> None:
    """A consumer with another assignor was there before."""
    config = {
        "bootstrap.servers": guarded.topics.bootstrap,
        "group.id": guarded.topics.group,
        "partition.assignment.strategy": "range",
    }
    with closing(Consumer(config)) as other:
        other.subscribe([guarded.topics.source])
        wait_until(lambda: other.poll(0.1) is not None or other.assignment(), 30, "the other to join")
        worker = guarded.add_worker()
        assert_waits_in_the_open(worker, "group", guarded.topics.group, "assignor", "KAFKA_CONSUMER_GROUP_ID")
    guarded.assert_nothing_lost()
    worker.wait_ready(10)


def test_source_topic_not_allowed_at_the_start(guarded: Scene) -> None:
    allow_only(guarded, ResourceType.TOPIC, guarded.topics.source, AclOperation.ALL)
    worker = guarded.add_worker()
    words = guarded.topics.source, "KAFKA_VALIDATED_DATA_TOPIC", "not allowed", "READ"
    assert_waits_in_the_open(worker, "source_topic", *words)
    assert "does not exist" not in worker.log_text()
    grant_all(guarded, ResourceType.TOPIC, guarded.topics.source)
    guarded.assert_nothing_lost()
    worker.wait_ready(10)


def test_source_topic_not_to_be_read_any_more(guarded: Scene) -> None:
    """It is there to be seen, since it may be written; fetches and commits are refused."""
    (worker,) = guarded.start_workers()
    guarded.wait_caught_up()
    allow_only(guarded, ResourceType.TOPIC, guarded.topics.source, AclOperation.WRITE, to=US)
    guarded.ledger.produce(itertools.islice(guarded.drafts(2), 1_000))
    words = guarded.topics.source, "KAFKA_VALIDATED_DATA_TOPIC", "not allowed", "READ"
    assert_waits_in_the_open(worker, "source_topic", *words)
    assert_is_no_stall(worker)
    grant_all(guarded, ResourceType.TOPIC, guarded.topics.source)
    guarded.assert_nothing_lost()
    worker.wait_ready(10)


def test_error_topic_not_allowed(guarded: Scene) -> None:
    """Before the first bad record needs it."""
    allow_only(guarded, ResourceType.TOPIC, guarded.topics.errors, AclOperation.READ, to=US)
    worker = guarded.add_worker()
    words = guarded.topics.errors, "KAFKA_ERROR_TOPIC", "not allowed", "WRITE"
    assert_waits_in_the_open(worker, "error_topic", *words)
    grant_all(guarded, ResourceType.TOPIC, guarded.topics.errors)
    worker.wait_ready(10)
    guarded.assert_nothing_lost()
