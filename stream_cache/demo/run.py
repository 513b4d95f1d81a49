"""Puts the demo together: starts what is asked for, shows it, and stops all of it on a signal."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from confluent_kafka import KafkaException, Producer

from stream_cache.demo import Address, DemoFailed, DemoOptions
from stream_cache.demo.embedded import Services, started_services, temporary_folder
from stream_cache.demo.fleet import Fleet
from stream_cache.demo.live import LEGEND, Freshness, PublishedErrors, look_up, say, show_live_line
from stream_cache.demo.sender import QUIET, Sender
from stream_cache.errors import InvalidSetting, StoreUnavailable
from stream_cache.settings import Settings
from stream_cache.store.store import Store

_BROKER_ANSWERS_S, _REQUEST_S = 10, 1.0
_EXAMPLES_S = 30.0
_EXAMPLE_COUNT = 3


def run_demo(options: DemoOptions, environ: Mapping[str, str]) -> int:
    """Run until a signal. Returns: 0 then; 1 when something failed, which has been said."""
    try:
        return asyncio.run(_until_signal(_run(options, environ)))
    except (DemoFailed, InvalidSetting) as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1


async def _until_signal(demo: Coroutine[Any, Any, None]) -> int:
    """Run the demo; cancel it at the first SIGINT, SIGTERM or SIGHUP, and let it clean up in peace from then on."""
    task = asyncio.ensure_future(demo)

    def stop(number: signal.Signals) -> None:
        if task.cancelling():
            say("Still stopping, a few seconds more.")
        else:
            say(f"\n{number.name}: stopping.")
            task.cancel()

    is_deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup
    for number in (signal.SIGINT, signal.SIGTERM, *(() if is_deaf else (signal.SIGHUP,))):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        say("Stopped.")
    return 0


async def _run(options: DemoOptions, environ: Mapping[str, str]) -> None:
    fleet = Fleet(options.devices, seed=random.getrandbits(64))
    if options.kafka and options.redis:
        await _run_at(options.kafka, options.redis, fleet, options.rate, environ)
    else:
        await _run_embedded(fleet, options.rate, environ)


async def _run_embedded(fleet: Fleet, rate: int, environ: Mapping[str, str]) -> None:
    say(
        "This is the demo: an embedded Kafka (librdkafka's mock cluster) and an embedded Redis.\n"
        "The demo broker lives in the memory of this one process, keeps little and forgets all when it ends.\n"
        "Good for a look on a laptop; never for production, and no benchmark.\n"
    )
    with temporary_folder() as folder:
        say(f"Starting Kafka, Redis and a worker; the worker's log: {folder / 'worker.log'}")
        async with started_services(environ, folder) as services:
            settings = services.settings
            say(f"Kafka {settings.kafka.bootstrap_servers}, Redis {settings.redis.host}:{settings.redis.port}")
            say(f"{len(fleet.device_ids):,} devices send {rate:,} readings/s.")
            await _show(fleet, rate, settings, services)


async def _run_at(kafka: Address, redis: Address, fleet: Fleet, rate: int, environ: Mapping[str, str]) -> None:
    addresses = {"KAFKA_BOOTSTRAP_SERVERS": str(kafka), "REDIS_HOST": redis.host, "REDIS_PORT": str(redis.port)}
    settings = Settings.from_env({**environ, "REDIS_URL": "", **addresses})
    topics = {settings.kafka.source_topic, settings.kafka.error_topic}
    web = Address("127.0.0.1", settings.web.port)
    await asyncio.to_thread(_check_topics, str(kafka), topics)
    say(
        f"{len(fleet.device_ids):,} simulated devices send {rate:,} readings/s to {kafka}, topic "
        f"{settings.kafka.source_topic}. What workers make of them is read from Redis at {redis}.\n"
        f"Ask a worker, on its machine:\n  curl -sS '{_lookup(web, fleet.device_ids[0])}'\n"
        f"Ctrl-C stops the fleet.\n\n{LEGEND}\n"
    )
    await _show(fleet, rate, settings, None)


def _check_topics(bootstrap: str, topics: set[str]) -> None:
    """Raises: DemoFailed when the broker doesn't answer, or lacks one of the topics."""
    client = Producer({"bootstrap.servers": bootstrap, **QUIET})
    for attempts_left in reversed(range(_BROKER_ANSWERS_S)):
        try:
            missing = topics - client.list_topics(timeout=_REQUEST_S).topics.keys()
        except KafkaException as error:
            if not attempts_left:
                raise DemoFailed(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from None
        else:
            break
    if missing:
        raise DemoFailed(f"Kafka at {bootstrap} has no topic {' and no topic '.join(sorted(missing))}: create it first")


async def _show(fleet: Fleet, rate: int, settings: Settings, services: Services | None) -> None:
    """Let the fleet send and show the live line, until cancelled. Raises: DemoFailed when a child ends."""
    bootstrap = settings.kafka.bootstrap_servers
    try:
        published = await asyncio.to_thread(PublishedErrors, bootstrap, settings.kafka.error_topic)
    except KafkaException as error:
        raise DemoFailed(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from None
    sender = Sender(fleet, bootstrap, settings.kafka.source_topic, rate)
    store = Store(settings.redis)
    freshness = Freshness(sender, store)
    try:
        async with asyncio.TaskGroup() as tasks:
            for child in services.children if services else ():
                tasks.create_task(child.watch())
            tasks.create_task(sender.send())
            tasks.create_task(published.follow())
            if services:
                examples = fleet.device_ids[:_EXAMPLE_COUNT]
                await services.worker.wait_until(lambda: _are_readable(store, examples), _EXAMPLES_S)
                say(f"\nWhere to look{_other_port(services)}:\n{_curl_lines(services.web, examples)}")
                say(f"Ctrl-C stops all of it.\n\n{LEGEND}\n")
            tasks.create_task(freshness.follow())
            tasks.create_task(show_live_line(sender, store, published, freshness))
    except* DemoFailed as failures:
        raise failures.exceptions[0] from None
    finally:
        await store.close()


async def _are_readable(store: Store, device_ids: list[str]) -> bool:
    try:
        return all(await look_up(store.get_many(device_ids)))
    except StoreUnavailable:
        return False


def _other_port(services: Services) -> str:
    """Say where the curl lines' port comes from, when it is not the one that was asked for."""
    if services.taken_web_port is None:
        return ""
    return f" (port {services.taken_web_port} is taken, so here is a free one; WEB_PORT=6070 make run chooses it)"


def _curl_lines(web: Address, device_ids: list[str]) -> str:
    # JSON's escapes rather than letters that a terminal may lack.
    bulk = json.dumps({"device_ids": [*device_ids, "no such device"]})
    requests = [
        *(f"curl -sS '{_lookup(web, device_id)}'" for device_id in device_ids[:2]),
        f"curl -sS 'http://{web}/devices/metadata' -d '{bulk}'",
        f"curl -sS 'http://{web}/devices?limit=5'",
        f"curl -sS 'http://{web}/metrics'",
        f"curl -sS 'http://{web}/health/ready'",
    ]
    return "".join(f"  {request}\n" for request in requests)


def _lookup(web: Address, device_id: str) -> str:
    return f"http://{web}/devices/{quote(device_id, safe='')}/metadata"
