"""Device lookups: one, many, and the list of ids. Read the store, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from faust.web import Blueprint

from stream_cache.errors import AnswerTooLarge
from stream_cache.readings.json_text import is_unicode
from stream_cache.store.hashes import Device
from stream_cache.store.index import MAX_ANSWER_BYTES
from stream_cache.web.answers import ApiError, json_response
from stream_cache.web.routes.view import AppView, invalid
from stream_cache.web.server import read_body

devices = Blueprint("devices")

_LIMIT_DEFAULT, _LIMIT_MAX = 100, 1000


@devices.route("/devices/{device_id:[^/]+}/metadata")
class DeviceMetadata(AppView):
    """One device."""

    async def get(self, request: web.Request, **_: str) -> web.Response:
        """Answer the device's metadata, or 404."""
        device_id = _device_id_of_path(request)
        device = await self.app.store.get(device_id)
        if device is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "device_not_found", f"no metadata is held of device {device_id!r}")
        return json_response(_as_json(device))


@devices.route("/devices/metadata")
class DevicesMetadata(AppView):
    """Many devices by their ids."""

    async def post(self, request: web.Request) -> web.Response:
        """Answer the metadata of each device asked for, in the order asked, and which are missing."""
        device_ids = _parse_bulk(await read_body(request), self.app.settings.web.bulk_max_devices)
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
class Devices(AppView):
    """All device ids, page by page."""

    parameters = ("limit", "cursor")

    async def get(self, request: web.Request) -> web.Response:
        """Answer one page of ids."""
        limit = _parse_limit(request.query.get("limit"))
        try:
            page = await self.app.store.list_devices(limit, request.query.get("cursor"))
        except ValueError:
            raise invalid("cursor: must be a next_cursor of an earlier answer") from None
        return json_response({"devices": page.device_ids, "count": page.total_count, "next_cursor": page.next_cursor})


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


def _device_id_of_path(request: web.Request) -> str:
    # Not match_info: aiohttp leaves some of it encoded. The raw path still has every byte that was sent.
    try:
        return unquote_to_bytes(request.rel_url.raw_path.split("/")[2]).decode()
    except UnicodeDecodeError:
        raise invalid("device_id: must be percent-encoded UTF-8") from None


def _parse_bulk(body: bytes, max_count: int) -> list[str]:
    if not body:
        raise invalid('the body is empty: send {"device_ids": [...]}')
    try:
        request = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {error}") from None
    device_ids = request.get("device_ids") if isinstance(request, dict) else None
    if not isinstance(device_ids, list) or not device_ids:
        raise invalid('the body must be {"device_ids": [...]} with at least one id')
    if len(device_ids) > max_count:
        message = f"device_ids: at most {max_count} ids in one request, these are {len(device_ids)}"
        raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_devices", message)
    if not all(isinstance(device_id, str) and device_id and is_unicode(device_id) for device_id in device_ids):
        raise invalid("device_ids: every id must be a non-empty string")
    return device_ids


def _parse_limit(text: str | None) -> int:
    if text is None:
        return _LIMIT_DEFAULT
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _LIMIT_MAX:
        raise invalid(f"limit: must be a whole number from 1 to {_LIMIT_MAX}")
    return int(text)
