"""What docker-compose.yml asks of Redis and Kafka is what they take: the real ones, without containers."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka.admin import AdminClient

from stream_cache.settings import KafkaSettings
from tests.compose import read_services
from tests.services import JAVA, REDIS, KafkaServer, RedisServer, Server, ensure, free_port
from tests.services.kafka import SHORT_LIVED_JVM, kafka_jars

BROKER_SETTING = "KAFKA_"  # the image makes `log.dirs` of KAFKA_LOG_DIRS
DATA_FOLDER = "/var/lib/kafka/data"


class ComposeRedis(RedisServer):
    """Redis with the very command of the compose file."""

    def launch(self) -> None:
        program, *arguments = read_services({"REDIS_PASSWORD": self.password})["redis"]["command"]
        assert program == "redis-server"
        here = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory))
        self.spawn([ensure(REDIS), *arguments, *here])


def test_redis__wants_the_password_and_keeps_what_it_was_told(tmp_path: Path) -> None:
    with ComposeRedis(tmp_path, password="hush") as server, redis.Redis.from_url(server.url) as client:
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        client.set("told", "x")
        server.kill()
        server.start()
        assert client.get("told") == b"x"


def in_this_machine(text: str, ports: dict[str, int]) -> str:
    """Put addresses of this machine in the place of the containers' names and ports."""
    for port, ours in ports.items():
        text = text.replace(f":{port}", f":{ours}")
    return text.replace("kafka:", "127.0.0.1:").replace("localhost:", "127.0.0.1:").replace("//:", "//127.0.0.1:")


def test_kafka__serves_inside_and_outside_the_network_with_the_topics_made(tmp_path: Path) -> None:
    services: dict[str, Any] = read_services()
    ports = {"9092": free_port(), "9093": free_port(), "29092": free_port()}
    properties = {
        name.removeprefix(BROKER_SETTING).lower().replace("_", "."): in_this_machine(value, ports)
        for name, value in services["kafka"]["environment"].items()
    }
    properties["log.dirs"] = properties["log.dirs"].replace(DATA_FOLDER, str(tmp_path / "kafka/data"))
    server: Server = KafkaServer(tmp_path / "kafka", port=ports["29092"], heap_mb=256, properties=properties)
    with server:
        init = services["kafka-init"]
        command = in_this_machine(init["command"][0], ports).replace(
            "/opt/kafka/bin/kafka-topics.sh",
            f"{ensure(JAVA)} {' '.join(SHORT_LIVED_JVM)} -cp '{kafka_jars()}/*' org.apache.kafka.tools.TopicCommand",
        )
        subprocess.run([*init["entrypoint"], command], env=init["environment"], check=True)
        settings = KafkaSettings()
        inside = in_this_machine(settings.bootstrap_servers, ports)
        (published,) = services["kafka"]["ports"]
        outside = in_this_machine(published.removesuffix(":29092"), ports)
        for address in (inside, outside):
            client = AdminClient({"bootstrap.servers": address})
            known = client.list_topics(timeout=10)
            assert [f"{broker.host}:{broker.port}" for broker in known.brokers.values()] == [address]
            assert set(known.topics) == {settings.source_topic, settings.error_topic}
            assert len(known.topics[settings.source_topic].partitions) == 8
