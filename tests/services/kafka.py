"""A real Apache Kafka: one KRaft node of the release that pom.xml names."""

import hashlib
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.services.machine import JAVA, MAVEN, ServiceUnavailableError, cache_directory, ensure, file_lock
from tests.services.processes import ChildExitedError, Server, free_port

POM = Path(__file__).with_name("pom.xml")
# Short-lived JVMs start faster without the second compiler.
SHORT_LIVED_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
LOG_LEVEL = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


class KafkaServer(Server):
    """Broker and controller in one process on 127.0.0.1.

    Kept apart from Kafka's defaults: no topic is created by being asked for, records are kept whatever timestamp they
    bear, groups start without a delay and may have sessions of 1 s. `properties` overrides any server property.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        heap_mb: int = 768,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__("kafka", directory)
        self.port = port or free_port()
        self.heap_mb = heap_mb
        self._data = directory / "data"
        self._config = directory / "server.properties"
        controller_port = free_port()
        self._properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self._data,
            # After a kill the node is let in again only when its old session has ended.
            "broker.session.timeout.ms": 4000,
            "broker.heartbeat.interval.ms": 500,
            "auto.create.topics.enable": "false",
            "log.retention.ms": -1,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,  # its default takes 128 MiB of the heap
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            **(properties or {}),
        }

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        java = [ensure(JAVA), "-cp", f"{kafka_jars()}/*", LOG_LEVEL]
        if not self._data.exists():
            self._format(java)
        heap = (f"-Xms{self.heap_mb}m", f"-Xmx{self.heap_mb}m")
        self.spawn([*java, *heap, "-XX:MaxGCPauseMillis=20", "kafka.Kafka", str(self._config)])

    def what_lacks(self) -> str:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            # Quiet: librdkafka would log each refused connection to stderr.
            brokers = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2}).list_topics(timeout=2)
        except (OSError, KafkaException) as error:
            return str(error)
        return "" if brokers.brokers else "no broker has registered"

    def _format(self, java: list[str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text("".join(f"{key}={value}\n" for key, value in self._properties.items()))
        command = [*java, *SHORT_LIVED_JVM, "kafka.tools.StorageTool", "format"]
        with self.log_path.open("ab") as log:
            result = subprocess.run(
                [*command, "--cluster-id", str(uuid.uuid4()), "--config", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if result.returncode:
            raise ChildExitedError(f"Kafka's StorageTool exited with {result.returncode}\n{self.log_tail()}")


def kafka_jars() -> Path:
    """Return the folder of the broker's jars, fetched by Maven once per machine and version of pom.xml (54 MB)."""
    root = cache_directory() / "kafka"
    jars = root / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    with file_lock(root / "lock"):
        if not jars.exists():
            partial = jars.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            goal = ("dependency:copy-dependencies", f"-DoutputDirectory={partial}")
            result = subprocess.run(
                [ensure(MAVEN), "--batch-mode", "--quiet", "--file", str(POM), *goal],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if result.returncode:
                raise ServiceUnavailableError(f"Maven could not fetch Kafka's jars:\n{result.stdout[-2000:]}")
            partial.rename(jars)
    return jars
