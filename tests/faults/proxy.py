"""A TCP proxy between a worker and Redis: cuts connections in the middle of what they say, is slow, or moves."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from threading import Thread
from typing import Any, Self

from tests.harness import RedisDatabase

_READ_BYTES = 65_536


class Proxy:
    """Forwards to a port of 127.0.0.1, every byte `delay_s` later. Runs in a thread of its own."""

    def __init__(self, target_port: int, *, delay_s: float = 0.0) -> None:
        self._target_port, self._delay_s = target_port, delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._transports: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random(11)
        self._is_cutting = False
        self.port = 0
        self.cut_count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0)).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def before(self, database: RedisDatabase) -> RedisDatabase:
        """Return the same database, reached through here."""
        return replace(database, port=self.port)

    def cut(self) -> None:
        """Cut every connection, each after a part of what it says next has gone through."""
        self._loop.call_soon_threadsafe(setattr, self, "_is_cutting", True)

    def move_to(self, target_port: int) -> None:
        """Forward new connections to another port; those that are open stay, and go on reaching the old one."""
        self._loop.call_soon_threadsafe(setattr, self, "_target_port", target_port)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        self._server.close()
        for transport in list(self._transports):
            transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer.transport, far_writer.transport)
        self._transports.update(pair)
        forwards = [
            self._loop.create_task(self._forward(reader, far_writer, pair)),
            self._loop.create_task(self._forward(far_reader, writer, pair)),
        ]
        self._tasks.update(forwards)
        await asyncio.wait(forwards, return_when=asyncio.FIRST_COMPLETED)
        for transport in pair:
            transport.abort()
        await asyncio.gather(*forwards, return_exceptions=True)
        self._transports.difference_update(pair)
        self._tasks.difference_update(forwards)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.WriteTransport, asyncio.WriteTransport],
    ) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(_READ_BYTES):
                if self._is_cutting:
                    self._is_cutting = False
                    self.cut_count += 1
                    writer.write(block[: self._random.randrange(len(block))])
                    await asyncio.sleep(0)
                    for transport in self._transports - set(pair):
                        transport.abort()
                    return
                if self._delay_s:
                    self._loop.call_later(self._delay_s, self._write, writer, block)
                else:
                    writer.write(block)
                    await writer.drain()

    @staticmethod
    def _write(writer: asyncio.StreamWriter, block: bytes) -> None:
        if not writer.transport.is_closing():
            writer.write(block)
