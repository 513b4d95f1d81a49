"""The probes."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web
from faust.web import Blueprint

from stream_cache.kafka.membership import OK
from stream_cache.observe.health import Checks
from stream_cache.web.answers import json_response
from stream_cache.web.routes.view import AppView

health = Blueprint("health")

_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


@health.route("/health/live")
class Live(AppView):
    """Whether the process can do its job at all."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer 200, or 503 when a restart is what helps."""
        trouble = self.app.health.liveness()
        return json_response(
            {"status": "stalled" if trouble else "live", "checks": trouble}, _UNAVAILABLE if trouble else HTTPStatus.OK
        )


class _ChecksView(AppView):
    """A probe whose body says how all of the worker is."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer 200, or 503; the body is the same for every such probe."""
        health = self.app.health
        checks = await health.checks()
        is_ready = health.is_ready(checks)
        is_well = all(found == OK for found in checks.values())
        return json_response(
            {"status": "ready" if is_well else "degraded" if is_ready else "not_ready", "checks": checks},
            HTTPStatus.OK if self.passes(checks) else _UNAVAILABLE,
        )

    def passes(self, checks: Checks) -> bool:
        """Tell whether the answer is 200."""
        raise NotImplementedError


@health.route("/health/ready")
class Ready(_ChecksView):
    """Whether the worker may get lookups."""

    def passes(self, checks: Checks) -> bool:
        """Tell whether lookups are answered."""
        return self.app.health.is_ready(checks)


@health.route("/health/ingest")
class Ingest(_ChecksView):
    """Whether the worker takes readings in."""

    def passes(self, checks: Checks) -> bool:
        """Tell whether nothing keeps readings out."""
        return self.app.health.is_taking_readings(checks)
