"""The wait for a Kafka that is away when the worker starts: in the open, for as long as it takes.

Between Faust's driver, which gives up at the first try, and aiokafka. Each try asks all of the bootstrap servers at
once and starts a client at the first that answers: aiokafka asks one after the other, 90 s each, and says what was
wrong in a line of its log only. A client that could not start is half made, so each try makes a new one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import mode
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from faust.transport.drivers import aiokafka as driver

from stream_cache.waiting import WaitingLog

#: The longest that a server may take to let us in, a slow name server and TLS included.
_GREET_WITHIN_S = 15.0
#: Without an answer for so long, it is said that there is none yet.
_PATIENCE_S = 2.0
_RETRY_S = 0.5
#: What a try may end with. What is refused for good, such as a password, belongs not here: that ends the worker.
_AWAY = (KafkaError, OSError, TimeoutError)
_logger = logging.getLogger(__name__)


class _Client(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


_ClientT = TypeVar("_ClientT", bound=_Client)


class BrokerWait:
    """Starts aiokafka's clients, each as soon as Kafka answers.

    `trouble` says what is waited for, None when nothing is: the health bodies show it.

    Args:
        servers: `host:port`, several with commas between them.
    """

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._waiting = WaitingLog(_logger)
        self.trouble: str | None = None

    async def start(self, service: mode.Service, make_client: Callable[[], _ClientT]) -> _ClientT | None:
        """Return a client that has started, None when the service is stopped before. Takes as long as Kafka is away."""
        narrator = asyncio.create_task(self._narrate())
        try:
            while not service.should_stop:
                client = await self._try(service, make_client)
                if client is not None:
                    self.trouble = None
                    self._waiting.end(f"Kafka at {self._servers} answers")
                    return client
                await service.sleep(_RETRY_S)
        finally:
            narrator.cancel()
        return None

    async def _try(self, service: mode.Service, make_client: Callable[[], _ClientT]) -> _ClientT | None:
        found = await service.wait(self._find_server())
        if found.stopped or found.result is None:
            return None
        server, client = cast("str", found.result), make_client()
        # aiokafka reads the addresses once, when it starts; a producer and a consumer name their inner client apart.
        inner: Any = getattr(client, "client", None) or client._client  # type: ignore[attr-defined]  # noqa: SLF001
        inner._bootstrap_servers = server  # noqa: SLF001 - see above
        has_started = False
        try:
            has_started = not (await service.wait(client.start())).stopped
        except _AWAY as error:
            self._note(f"{server}: {_in_words(error)}")
        finally:
            if not has_started:
                await client.stop()
        return client if has_started else None

    async def _find_server(self) -> str | None:
        """Return the first server that lets us in, None when none does."""
        servers = {
            asyncio.create_task(_greet(host, port)): f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port, _ in collect_hosts(self._servers)
        }
        pending = set(servers)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for greeting in done:
                    if not greeting.result():
                        return servers[greeting]
        finally:
            for greeting in pending:
                greeting.cancel()
        self._note(", ".join(f"{server}: {greeting.result()}" for greeting, server in servers.items()))
        return None

    def _note(self, why: str) -> None:
        self.trouble = f"waiting for Kafka (KAFKA_BOOTSTRAP_SERVERS): {why}"
        self._waiting.wait(f"{self.trouble}; lookups are answered meanwhile")

    async def _narrate(self) -> None:
        """Say in the rhythm of all waits what the last try ended with, or that there is no answer yet."""
        began_s = time.monotonic()
        while True:
            await asyncio.sleep(1)
            if self.trouble is not None:
                self._waiting.wait(f"{self.trouble}; lookups are answered meanwhile")
            elif time.monotonic() - began_s >= _PATIENCE_S:
                self._note(f"{self._servers}: no answer yet")


class _Waits(Protocol):
    broker_wait: BrokerWait


class PatientProducer(driver.Producer):
    """Faust's producer, which waits for Kafka where Faust's ends the worker."""

    async def on_start(self) -> None:
        """Start as soon as Kafka answers."""
        await super(driver.Producer, self).on_start()
        self._producer = await cast("_Waits", self.app).broker_wait.start(self, self._new_producer)
        if self._producer is not None:
            self.beacon.add(self._producer)

    def broker_address(self, node_id: object) -> str | None:
        """Return the address that a broker advertises, None when it is not known."""
        broker = self._producer and self._producer.client.cluster.broker_metadata(node_id)
        return f"{broker.host}:{broker.port}" if broker else None


class PatientConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread of the consumer, which waits for Kafka where Faust's ends the worker.

    It has no consumer until that has started: nobody sees a half-made one.
    """

    async def on_start(self) -> None:
        """Start as soon as Kafka answers."""
        self.time_started = time.monotonic()
        self._consumer = await cast("_Waits", self.app).broker_wait.start(
            self, lambda: self._create_consumer(loop=self.thread_loop)
        )

    async def stop(self) -> None:
        """Stop, unless a crash has ended the thread: mode would call into its closed loop."""
        if not self.thread_loop.is_closed():
            await super().stop()


async def _greet(host: str, port: int) -> str:
    """Connect as a client does. Returns: what is in the way, "" when nothing is."""
    try:
        async with asyncio.timeout(_GREET_WITHIN_S):
            connection = await create_conn(host, port, request_timeout_ms=int(_GREET_WITHIN_S * 1000))
    except _AWAY as error:
        return _in_words(error)
    connection.close()
    return ""


def _in_words(error: BaseException) -> str:
    match error:
        case socket.gaierror(errno=socket.EAI_NONAME | socket.EAI_NODATA):
            return "name not known"
        case socket.gaierror():
            return f"the name can't be looked up ({error.strerror})"
        case TimeoutError(errno=None):
            return f"no answer within {_GREET_WITHIN_S:.0f} s"
        case ConnectionResetError() | KafkaConnectionError():
            return "closes the connection; is it a Kafka listener, without TLS?"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return os.strerror(number).lower()
    return f"{type(error).__name__}: {error}"
