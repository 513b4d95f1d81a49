"""The barest aiohttp server that answers a lookup: one HGETALL, or one pipeline of HGETALLs, and no check of anything.

Run as `python -m bench.bare_server PORT REDIS_URL`; on uvloop, as the service is.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvloop
from aiohttp import web
from redis.asyncio import Redis

from bench.children import environment
from bench.workload import hash_key
from tests.services import ChildProcess, free_port


class BareServer(ChildProcess):
    """That server as a child process."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        super().__init__("bare_server", directory)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._redis_url = redis_url

    def start(self) -> None:
        self.spawn([sys.executable, "-m", "bench.bare_server", str(self.port), self._redis_url], environment())

    def what_lacks(self) -> str:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError as error:
            return str(error)
        return ""


def create_app(redis_url: str) -> web.Application:
    client = Redis.from_url(redis_url, decode_responses=True)

    async def get_one(request: web.Request) -> web.Response:
        return web.json_response(await client.hgetall(hash_key(request.match_info["device_id"])))

    async def get_many(request: web.Request) -> web.Response:
        pipeline = client.pipeline(transaction=False)
        for device_id in json.loads(await request.read())["device_ids"]:
            pipeline.hgetall(hash_key(device_id))
        return web.json_response(await pipeline.execute())

    app = web.Application()
    app.router.add_get(r"/devices/{device_id:.+}/metadata", get_one)
    app.router.add_post("/devices/metadata", get_many)
    return app


async def serve(port: int, redis_url: str) -> None:
    runner = web.AppRunner(create_app(redis_url), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
