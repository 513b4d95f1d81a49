"""`GET /metrics`."""

from __future__ import annotations

from aiohttp import web
from faust.web import Blueprint

from stream_cache.web.routes.view import AppView

metrics = Blueprint("metrics")


@metrics.route("/metrics")
class Metrics(AppView):
    """The worker's metrics."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer Prometheus text."""
        return web.Response(
            body=self.app.metrics.as_text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )
