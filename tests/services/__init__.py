"""Real services as child processes, for fixtures, fault tests and benchmarks."""

from tests.services.kafka import KafkaServer
from tests.services.machine import JAVA, MAVEN, REDIS, ServiceUnavailableError, ensure
from tests.services.processes import ChildExitedError, ChildProcess, Server, free_port
from tests.services.redis import OldRedisServer, RedisServer

__all__ = [
    "JAVA",
    "MAVEN",
    "REDIS",
    "ChildExitedError",
    "ChildProcess",
    "KafkaServer",
    "OldRedisServer",
    "RedisServer",
    "Server",
    "ServiceUnavailableError",
    "ensure",
    "free_port",
]
