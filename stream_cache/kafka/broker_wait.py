"""Starts the Kafka clients of Faust as soon as Kafka answers, where Faust ends the worker at the first failure.

Between Faust's driver and aiokafka. Each try asks all of the bootstrap servers at once and starts a client at the first
that answers: aiokafka asks one after the other, 90 s each. A client that could not start is half made, so each try
makes a new one. What is waited for is the broker watch's to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

import mode
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver

#: The longest that a server may take to let us in, a slow name server and TLS included.
_GREET_WITHIN_S = 15.0
_RETRY_S = 0.5
#: What a try may end with. What is refused for good, such as a password, belongs not here: that ends the worker.
_AWAY = (KafkaError, OSError, TimeoutError)


class _Client(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


_ClientT = TypeVar("_ClientT", bound=_Client)


async def start_client(service: mode.Service, servers: str, make_client: Callable[[], _ClientT]) -> _ClientT | None:
    """Return a client that has started, None when the service is stopped before. Takes as long as Kafka is away."""
    while not service.should_stop:
        found = await service.wait(_find_server(servers))
        if found.result is not None:
            client = await _try_to_start(service, cast("str", found.result), make_client())
            if client is not None:
                return client
        await service.sleep(_RETRY_S)
    return None


async def _try_to_start(service: mode.Service, server: str, client: _ClientT) -> _ClientT | None:
    # aiokafka reads the addresses once, when it starts; a producer and a consumer name their inner client apart.
    inner: Any = getattr(client, "client", None) or client._client  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    inner._bootstrap_servers = server  # noqa: SLF001 - see above
    has_started = False
    try:
        with suppress(*_AWAY):
            has_started = not (await service.wait(client.start())).stopped
    finally:
        if not has_started:
            await client.stop()
    return client if has_started else None


async def _find_server(servers: str) -> str | None:
    """Return the first server that lets us in, None when none does."""
    addresses = {
        asyncio.create_task(_lets_in(host, port)): f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port, _ in collect_hosts(servers)
    }
    pending = set(addresses)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for asking in done:
                if asking.result():
                    return addresses[asking]
    finally:
        for asking in pending:
            asking.cancel()
    return None


async def _lets_in(host: str, port: int) -> bool:
    """Connect as a client does."""
    try:
        async with asyncio.timeout(_GREET_WITHIN_S):
            connection = await create_conn(host, port, request_timeout_ms=int(_GREET_WITHIN_S * 1000))
    except _AWAY:
        return False
    connection.close()
    return True


def _bootstrap_servers(app: Any) -> str:
    """Return `host:port`, several with commas between them."""
    return cast("str", app.settings.kafka.bootstrap_servers)


class PatientProducer(driver.Producer):
    """Faust's producer, which waits for Kafka where Faust's ends the worker."""

    async def on_start(self) -> None:
        """Start as soon as Kafka answers."""
        await super(driver.Producer, self).on_start()
        self._producer = await start_client(self, _bootstrap_servers(self.app), self._new_producer)
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
        self._consumer = await start_client(
            self, _bootstrap_servers(self.app), lambda: self._create_consumer(loop=self.thread_loop)
        )

    async def stop(self) -> None:
        """Stop, unless a crash has ended the thread: mode would call into its closed loop."""
        if not self.thread_loop.is_closed():
            await super().stop()
