"""`GET /`: what this service is, and its paths."""

from __future__ import annotations

from aiohttp import web
from faust.web import Blueprint

from stream_cache import __version__
from stream_cache.web.answers import json_response
from stream_cache.web.routes.view import AppView

root = Blueprint("root")


@root.route("/")
class Root(AppView):
    """What this service is."""

    async def get(self, request: web.Request) -> web.Response:
        """Answer its name, its version, and which methods each path takes."""
        paths: dict[str, list[str]] = {}
        for route in request.app.router.routes():
            if route.resource is not None and route.method != "HEAD":
                paths.setdefault(route.resource.canonical, []).append(route.method)
        return json_response({"name": "stream_cache", "version": __version__, "paths": paths})
