"""The order in which the worker's services start: what answers from Redis before what needs Kafka.

Faust starts the producer before the web server. Services stop in the opposite order: lookups are answered to the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import mode
from faust.app.base import BootStrategy
from faust.types import ServiceT

from stream_cache import __version__

if TYPE_CHECKING:
    from stream_cache.app import StreamCache


class BootOrder(BootStrategy):
    """HTTP, then Kafka's producer and consumer, which may have to wait, then what works on what they bring."""

    def server(self) -> Iterable[ServiceT]:
        """Return the services of a worker, in the order in which they start."""
        return self._chain(
            self.sensors(),
            self.web_server(),
            [StartLine(cast("StreamCache", self.app))],
            self.kafka_producer(),
            self.kafka_consumer(),
            self.agents(),
            self.kafka_conductor(),
            self.tables(),
        )


class StartLine(mode.Service):
    """Says in the log that HTTP is served, and what this worker works with: all that a start says at INFO."""

    def __init__(self, app: StreamCache) -> None:
        super().__init__()
        self._app = app

    async def on_start(self) -> None:
        """Say it."""
        settings, faust_settings = self._app.settings, self._app.conf
        self.log.info(
            "stream_cache %s serves HTTP%s at %s port %d; Kafka %s, topics %r and %r, group %r; Redis %s",
            __version__,
            "S" if settings.web.tls_cert_file else "",
            faust_settings.web_bind,  # which `faust worker -p` may have set
            faust_settings.web_port,
            settings.kafka.bootstrap_servers,
            settings.kafka.source_topic,
            settings.kafka.error_topic,
            settings.kafka.group_id,
            settings.redis.target(),
        )
