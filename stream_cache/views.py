"""HTTP: device lookups, health and metrics (the contract, section 4). Reads the store, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from faust.web import Blueprint, View

from stream_cache import __version__
from stream_cache import metrics as worker_metrics
from stream_cache.answers import ApiError, json_response
from stream_cache.errors import AnswerTooLarge
from stream_cache.hashes import Device
from stream_cache.health import Checks, Health
from stream_cache.membership import OK
from stream_cache.models import MAX_ANSWER_BYTES, is_unicode
from stream_cache.settings import Settings
from stream_cache.store import Store
from stream_cache.web import read_body

root = Blueprint("root")
devices = Blueprint("devices")
health = Blueprint("health")
metrics = Blueprint("metrics")

_LIMIT_DEFAULT, _LIMIT_MAX = 100, 1000
_NOT_READY = HTTPStatus.SERVICE_UNAVAILABLE


class _Parts(Protocol):
    """What the views need of the app."""

    settings: Settings
    store: Store
    health: Health
    metrics: worker_metrics.Metrics


class _View(View):
    """A view of our app: answers HEAD only where it answers GET, and refuses query parameters that it does not know."""

    app: _Parts  # type: ignore[assignment]  # Faust hands over our app
    parameters: ClassVar[tuple[str, ...]] = ()

    async def dispatch(self, request: web.Request) -> Any:
        for name in request.query:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise _invalid(f"unknown parameter {name[:100]!r}; known here: {known}")
            if len(request.query.getall(name)) > 1:
                raise _invalid(f"{name}: is given more than once")
        return await super().dispatch(request)

    def get_methods(self) -> set[str]:
        methods = super().get_methods()
        return methods if "GET" in methods else methods - {"HEAD"}


@root.route("/")
class Root(_View):
    """What this service is."""

    async def get(self, request: web.Request) -> web.Response:
        """Answer its name, its version, and which methods each path takes."""
        paths: dict[str, list[str]] = {}
        for route in request.app.router.routes():
            if route.resource is not None and route.method != "HEAD":
                paths.setdefault(route.resource.canonical, []).append(route.method)
        return json_response({"name": "stream_cache", "version": __version__, "paths": paths})


@devices.route("/devices/{device_id:[^/]+}/metadata")
class DeviceMetadata(_View):
    """One device."""

    async def get(self, request: web.Request, **_: str) -> web.Response:
        """Answer the device's metadata, or 404."""
        device_id = _device_id_of_path(request)
        device = await self.app.store.get(device_id)
        if device is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "device_not_found", f"no metadata is held of device {device_id!r}")
        return json_response(_as_json(device))


@devices.route("/devices/metadata")
class DevicesMetadata(_View):
    """Many devices by their ids."""

    async def post(self, request: web.Request) -> web.Response:
        """Answer the metadata of each device asked for, in the order asked, and which are missing."""
        device_ids = _parse_bulk(await read_body(request), self.app.settings.bulk_max_devices)
        found = await self.app.store.get_many(device_ids)
        missing = dict.fromkeys(
            device_id for device_id, device in zip(device_ids, found, strict=True) if device is None
        )
        known = [device for device in found if device]
        is_repeating = len(set(device_ids)) < len(device_ids)
        entries = _encode_each_once(known) if is_repeating else [_as_json(device) for device in known]
        content = msgspec.json.encode({"devices": entries, "missing": list(missing)})
        if len(content) > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(MAX_ANSWER_BYTES)
        return json_response(msgspec.Raw(content))


@devices.route("/devices")
class Devices(_View):
    """All device ids, page by page."""

    parameters = ("limit", "cursor")

    async def get(self, request: web.Request) -> web.Response:
        """Answer one page of ids."""
        limit = _parse_limit(request.query.get("limit"))
        try:
            page = await self.app.store.list_devices(limit, request.query.get("cursor"))
        except ValueError:
            raise _invalid("cursor: must be a next_cursor of an earlier answer") from None
        return json_response({"devices": page.device_ids, "count": page.total_count, "next_cursor": page.next_cursor})


@health.route("/health/live")
class Live(_View):
    """Whether the process can do its job at all."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer 200, or 503 when a restart is what helps."""
        trouble = self.app.health.liveness()
        return json_response(
            {"status": "stalled" if trouble else "live", "checks": trouble}, _NOT_READY if trouble else HTTPStatus.OK
        )


class _ChecksView(_View):
    """A probe whose body says how all of the worker is."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer 200, or 503; the body is the same for every such probe."""
        health = self.app.health
        checks = await health.checks()
        is_ready = health.is_ready(checks)
        is_well = all(found == OK for found in checks.values())
        return json_response(
            {"status": "ready" if is_well else "degraded" if is_ready else "not_ready", "checks": checks},
            HTTPStatus.OK if self.passes(checks) else _NOT_READY,
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


@metrics.route("/metrics")
class Metrics(_View):
    """The worker's metrics."""

    async def get(self, request: web.Request) -> web.Response:  # noqa: ARG002 - the signature is Faust's
        """Answer Prometheus text."""
        return web.Response(
            body=self.app.metrics.as_text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _as_json(device: Device) -> dict[str, Any]:
    return {"device_id": device.device_id, **device.fields, "last_updated": device.last_updated}


def _encode_each_once(devices: Iterable[Device]) -> list[msgspec.Raw]:
    """Return each as JSON; a large one that is asked for a thousand times is no more work. Raises: AnswerTooLarge."""
    encoded: dict[str, msgspec.Raw] = {}
    entries, size_bytes = [], 0
    for device in devices:
        entry = encoded.get(device.device_id)
        if entry is None:
            entry = encoded[device.device_id] = msgspec.Raw(msgspec.json.encode(_as_json(device)))
        size_bytes += len(memoryview(entry))
        if size_bytes > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(MAX_ANSWER_BYTES)
        entries.append(entry)
    return entries


def _invalid(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", message)


def _device_id_of_path(request: web.Request) -> str:
    # Not match_info: aiohttp leaves some of it encoded. The raw path still has every byte that was sent.
    try:
        return unquote_to_bytes(request.rel_url.raw_path.split("/")[2]).decode()
    except UnicodeDecodeError:
        raise _invalid("device_id: must be percent-encoded UTF-8") from None


def _parse_bulk(body: bytes, max_count: int) -> list[str]:
    if not body:
        raise _invalid('the body is empty: send {"device_ids": [...]}')
    try:
        request = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the body is not JSON: {error}") from None
    device_ids = request.get("device_ids") if isinstance(request, dict) else None
    if not isinstance(device_ids, list) or not device_ids:
        raise _invalid('the body must be {"device_ids": [...]} with at least one id')
    if len(device_ids) > max_count:
        message = f"device_ids: at most {max_count} ids in one request, these are {len(device_ids)}"
        raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_devices", message)
    if not all(isinstance(device_id, str) and device_id and is_unicode(device_id) for device_id in device_ids):
        raise _invalid("device_ids: every id must be a non-empty string")
    return device_ids


def _parse_limit(text: str | None) -> int:
    if text is None:
        return _LIMIT_DEFAULT
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _LIMIT_MAX:
        raise _invalid(f"limit: must be a whole number from 1 to {_LIMIT_MAX}")
    return int(text)
