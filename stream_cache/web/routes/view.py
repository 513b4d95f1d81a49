"""What all views have in common."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar, Protocol

from aiohttp import web
from faust.web import View

from stream_cache.metrics import Metrics
from stream_cache.observe.health import Health
from stream_cache.settings import Settings
from stream_cache.store.store import Store
from stream_cache.web.answers import ApiError


class _Parts(Protocol):
    """What the views need of the app."""

    settings: Settings
    store: Store
    health: Health
    metrics: Metrics


class AppView(View):
    """A view of our app: answers HEAD only where it answers GET, and refuses query parameters that it does not know."""

    app: _Parts  # type: ignore[assignment]  # Faust hands over our app
    parameters: ClassVar[tuple[str, ...]] = ()

    async def dispatch(self, request: web.Request) -> Any:
        """Answer a request. Raises: ApiError for a query parameter that is unknown, or given twice."""
        for name in request.query:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise invalid(f"unknown parameter {name[:100]!r}; known here: {known}")
            if len(request.query.getall(name)) > 1:
                raise invalid(f"{name}: is given more than once")
        return await super().dispatch(request)

    def get_methods(self) -> set[str]:
        """Return the methods that are answered."""
        methods = super().get_methods()
        return methods if "GET" in methods else methods - {"HEAD"}


def invalid(message: str) -> ApiError:
    """Return the answer to a request that is wrong."""
    return ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", message)
