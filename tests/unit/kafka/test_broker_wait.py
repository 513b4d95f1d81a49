"""Clients that can't start: none of them is used again, and none is left open."""

import asyncio

import mode
import pytest
from aiokafka.errors import KafkaConnectionError

from stream_cache.kafka import broker_wait
from stream_cache.kafka.broker_wait import start_client


class Client:
    """A client whose start ends with an error, or never."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self._error, self._hangs = error, hangs
        self.client = self
        self.has_begun = asyncio.Event()
        self.is_stopped = False

    async def start(self) -> None:
        self.has_begun.set()
        if self._error:
            raise self._error
        if self._hangs:
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture(autouse=True)
def _kafka_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lets_in(_host: str, _port: int) -> bool:
        return True

    monkeypatch.setattr(broker_wait, "_lets_in", lets_in)
    monkeypatch.setattr(broker_wait, "_RETRY_S", 0)


async def test_kafka_goes_away_between__the_next_try_makes_a_new_client() -> None:
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(None if made else KafkaConnectionError("gone")))
        return made[-1]

    assert await start_client(mode.Service(), "a:9092", make) is made[1]
    assert [client.is_stopped for client in made] == [True, False]


async def test_service_is_stopped_while_a_client_starts__it_is_closed() -> None:
    service, client = mode.Service(), Client(hangs=True)
    starting = asyncio.create_task(start_client(service, "a:9092", lambda: client))
    await client.has_begun.wait()
    await service.stop()
    assert await starting is None
    assert client.is_stopped
