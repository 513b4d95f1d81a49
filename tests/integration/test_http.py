"""The HTTP interface of a real worker (the contract, section 4)."""

import http.client
import importlib.metadata
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests import harness, oracle
from tests.conftest import Kafka
from tests.fakes import json_record
from tests.harness import Answer, Api, RedisDatabase, TopicNames, Worker, wait_until
from tests.services import RedisServer

MIB = 1024 * 1024
NOW_MS = int(time.time() * 1000)
LAST_UPDATED = oracle.time_text(NOW_MS * 1000)
METADATA: dict[str, dict[str, Any]] = {
    "full": {"datatype_id": "i", "datatype_name": "Température", "datatype_unit": "°C", "persist": False},
    "lists": {"datatype_id": "i", "datatype_name": None, "datatype_unit": ["m", "s"], "persist": [True, False]},
    "nulls": {"datatype_id": None, "datatype_name": None, "datatype_unit": None, "persist": None},
    "odd kinds": {"datatype_id": 7, "datatype_name": {"a": [1.5]}, "datatype_unit": True, "persist": "yes"},
    "like JSON": {"datatype_id": "7", "datatype_name": "null", "datatype_unit": '["m"]', "persist": "true"},
}
ALLOWED = {
    "/devices/full/metadata": {"GET", "HEAD"},
    "/devices/metadata": {"POST"},
    "/devices": {"GET", "HEAD"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/health/ingest": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/": {"GET", "HEAD"},
}
LISTED = [f"listed-{number:03d}" for number in range(250)]


class Bench(NamedTuple):
    api: Api
    other: Api
    redis: RedisServer
    topics: TopicNames


def device_object(device_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {**metadata, "persist": True if metadata["persist"] is None else metadata["persist"]}
    return {"device_id": device_id, **kept, "last_updated": LAST_UPDATED}


@pytest.fixture(scope="module")
def bench(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two workers of one group, on a Redis of their own, that hold the devices of these tests."""
    directory = tmp_path_factory.mktemp("http")
    topics = TopicNames.unique(kafka.bootstrap_servers)
    topics.create(2)
    devices = {**METADATA, **{device_id: {"datatype_name": "T"} for device_id in LISTED}}
    topics.produce(
        [
            json_record(device_id, partition=number % 2, timestamp_ms=NOW_MS, metadata=json.dumps(metadata))
            for number, (device_id, metadata) in enumerate(devices.items())
        ]
    )
    with RedisServer(directory / "redis") as redis:
        env = topics.env() | RedisDatabase.of_url(redis.url, 0).env()
        with (
            Worker(directory / "one", env, name="one") as one,
            Worker(directory / "two", env, name="two") as two,
        ):
            one.wait_ready()
            two.wait_ready()
            topics.wait_caught_up()
            yield Bench(Api(one), Api(two), redis, topics)
            assert one.is_running
            assert two.is_running
    harness.delete_topics(topics.bootstrap, (topics.source, topics.errors))


@pytest.fixture(scope="module")
def api(bench: Bench) -> Api:
    return bench.api


# ---------------------------------------------------------------------------------------------------- one device


@pytest.mark.parametrize("device_id", METADATA)
def test_one__answers_real_json_types_and_nulls(api: Api, device_id: str) -> None:
    answer = api.one(device_id)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"  # PowerShell reads Latin-1 without
    assert answer.json == device_object(device_id, METADATA[device_id])
    assert json.dumps(answer.json) == json.dumps(device_object(device_id, METADATA[device_id]))


def test_one__that_is_unknown_is_404(api: Api) -> None:
    api.error(api.one("nobody"), 404, "device_not_found")


@pytest.mark.parametrize(
    "path",
    [
        *("/devices/full", "/devices//metadata", "/devices/full/", "/devices/full/../../metrics/x", "//devices"),
        *("/%64evice", "/é", "/DEVICES", "/health", "/health/", "/metrics/", "/favicon.ico"),
        *("/table", "/table/", "/table/latest", "/table/latest/0", "/router", "/router/", "/router/latest/0"),
        *("/stats", "/stats/", "/graph", "/graph/", "/assignment/", "/production_index/"),
    ],
)
def test_path__that_is_none_is_404_in_our_form(api: Api, path: str) -> None:
    """Faust's own pages, which show data or internals, are none either."""
    api.error(api.get(quote(path, safe="/%")), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/device/full/metadata", ["GET /"]),
        ("/devices/meter/4:B/metadata", ["GET /", "%2F", "POST /devices/metadata"]),
        ("/devices/full/metadata/", ["GET /", "no slash at its end"]),
        ("/devices/", ["GET /", "no slash at its end"]),
    ],
)
def test_path__that_is_none_says_what_may_be_meant(api: Api, path: str, words: list[str]) -> None:
    message = api.error(api.get(path), 404, "not_found")
    for word in words:
        assert word in message


# -------------------------------------------------------------------------------------------------------- bulk


def test_bulk__keeps_order_and_duplicates_and_names_what_is_missing(api: Api) -> None:
    answer = api.bulk(["nulls", "nobody", "full", "nulls", "no one", "nobody"])
    assert answer.status == 200
    assert answer.json == {
        "devices": [device_object(device_id, METADATA[device_id]) for device_id in ("nulls", "full", "nulls")],
        "missing": ["nobody", "no one"],
    }


def test_bulk__takes_1_to_1000_ids(api: Api) -> None:
    assert len(api.bulk(["full"] * 1000).json["devices"]) == 1000
    api.error(api.bulk(["full"] * 1001), 413, "too_many_devices")
    api.error(api.bulk([]), 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b'["full"]', b"{}", b"\x00", b"[" * 100_000, b'{"device_ids": ' + b"[" * 100_000),
        *(b'{"device_ids": null}', b'{"device_ids": "full"}', b'{"device_ids": {"full": 1}}', b'{"device_ids": [1]}'),
        *(b'{"device_ids": ["full", null]}', b'{"device_ids": [""]}', b'{"device_ids": [["full"]]}'),
        *(b'{"device_ids": ["full"]} x', b'{"device_ids": ["full", NaN]}', b'\xef\xbb\xbf{"device_ids": ["full"]}'),
        *(b'{"device_ids": ["\\ud800"]}', b'{"device_ids": ["\xff"]}'),
    ],
    ids=lambda body: ascii(body)[:30],
)
def test_bulk__refuses_a_body_that_is_no_list_of_ids(api: Api, body: bytes) -> None:
    api.error(api.ask("POST", "/devices/metadata", body), 400, "invalid_request")


def test_bulk__takes_a_body_of_1_mib_and_refuses_a_larger_one(api: Api) -> None:
    body = b'{"device_ids": ["full"]}'
    assert api.ask("POST", "/devices/metadata", body.ljust(MIB)).status == 200
    api.error(api.ask("POST", "/devices/metadata", body.ljust(MIB + 1)), 413, "body_too_large")


def test_bulk__refuses_a_larger_body_in_chunks_too(api: Api) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.worker.web_port, timeout=20)
    pieces = iter([b'{"device_ids": ["full"]}', *[b" " * 65536] * 20])
    connection.request("POST", "/devices/metadata", pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    response = connection.getresponse()
    api.error(Answer(response.status, response.headers, response.read()), 413, "body_too_large")
    connection.close()


def test_bulk__without_a_body_says_what_to_send(api: Api) -> None:
    assert api.error(api.ask("POST", "/devices/metadata"), 400, "invalid_request") == (
        'the body is empty: send {"device_ids": [...]}'
    )


def test_bulk__whose_answer_would_pass_16_mib_is_413(bench: Bench) -> None:
    """Whether by an id that is asked for again and again, or by many."""
    fields = {"last_updated": LAST_UPDATED, "datatype_name": "x" * 1_000_000}
    device_ids = [f"large-{number}" for number in range(17)]
    with RedisDatabase.of_url(bench.redis.url, 0).connect() as client:
        try:
            for device_id in device_ids:
                client.hset(f"device:{device_id}:metadata", mapping=fields)
            for fits in (device_ids[:1] * 16, device_ids[:16]):
                answer = bench.api.bulk(fits)
                assert (answer.status, len(answer.json["devices"])) == (200, 16)
            for beyond in (device_ids[:1] * 17, device_ids):
                bench.api.error(bench.api.bulk(beyond), 413, "answer_too_large")
        finally:
            client.delete(*(f"device:{device_id}:metadata" for device_id in device_ids))


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "x", "multipart/form-data"]
)
def test_bulk__does_not_look_at_the_content_type(api: Api, content_type: str) -> None:
    body = b'{"device_ids": ["full"]}'
    assert api.ask("POST", "/devices/metadata", body, {"Content-Type": content_type}).status == 200


# -------------------------------------------------------------------------------------------------------- list


def test_list__has_pages_of_100_unless_another_limit_is_given(api: Api) -> None:
    first = api.get("/devices").json
    assert set(first) == {"devices", "count", "next_cursor"}
    assert (len(first["devices"]), first["count"]) == (100, len(METADATA) + len(LISTED))
    rest = api.get(f"/devices?limit=1000&cursor={quote(first['next_cursor'], safe='')}").json
    assert (rest["count"], rest["next_cursor"]) == (first["count"], None)
    assert sorted(first["devices"] + rest["devices"]) == sorted([*METADATA, *LISTED])


@pytest.mark.parametrize(
    "limit",
    [
        *("0", "1001", "-1", "abc", "", "1.5", "1e2", " 5", "+5", "0x10", "10000", "99999", "100000", "1_0", "true"),
        *("00005000", "0000199999", "00001" + "9" * 5000, "\u0663", "\u00b3", "\uff15", "\x00"),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_list__refuses_a_limit_that_is_out_of_range(api: Api, limit: str) -> None:
    api.error(api.get(f"/devices?limit={quote(limit)}"), 400, "invalid_request")


@pytest.mark.parametrize("cursor", ["", "!!!!", "é", "\x00"])
def test_list__refuses_a_cursor_that_is_none_of_ours(api: Api, cursor: str) -> None:
    message = api.error(api.get(f"/devices?cursor={quote(cursor)}"), 400, "invalid_request")
    assert "cursor" in message


# ------------------------------------------------------------------------------------------ methods and paths


def test_root__names_the_service_its_version_and_every_path(api: Api) -> None:
    root = api.get("/").json
    assert set(root) == {"name", "version", "paths"}
    assert (root["name"], root["version"]) == ("stream_cache", importlib.metadata.version("stream-cache"))
    expected = {path.replace("full", "{device_id}"): sorted(methods - {"HEAD"}) for path, methods in ALLOWED.items()}
    assert root["paths"].items() >= expected.items()


@pytest.mark.parametrize("path", ALLOWED)
def test_parameter__that_is_unknown_is_400(api: Api, path: str) -> None:
    method = "POST" if path == "/devices/metadata" else "GET"
    message = api.error(api.ask(method, f"{path}?limt=2", b'{"device_ids": ["full"]}'), 400, "invalid_request")
    assert "unknown parameter 'limt'" in message


def test_parameter__that_is_given_twice_is_400(api: Api) -> None:
    api.error(api.get("/devices?limit=1&limit=2"), 400, "invalid_request")


@pytest.mark.parametrize(("path", "allowed"), ALLOWED.items())
def test_method__that_is_not_allowed_is_405(api: Api, path: str, allowed: set[str]) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "SEARCH"):
        if method in allowed:
            continue
        answer = api.ask(method, path)
        api.error(answer, 405, "method_not_allowed")
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed
    head = api.ask("HEAD", path)
    assert head.status == (200 if "HEAD" in allowed else 405)
    assert head.body == b""


@pytest.mark.parametrize("path", ["/devices/full/metadata", "/devices?limit=1", "/nothing"])
def test_answer__ends_with_one_line_break_which_its_length_counts(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.body.endswith(b"}\n")
    for one in (answer, api.ask("HEAD", path)):
        assert int(one.headers["Content-Length"]) == len(answer.body)


def test_head__of_an_unknown_device_is_404(api: Api) -> None:
    assert api.ask("HEAD", "/devices/nobody/metadata").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": "x" * 32_768},
        {f"X-{number}": "y" * 200 for number in range(100)},
    ],
    ids=["32 kB", "100 headers"],
)
def test_headers__that_browsers_and_proxies_add_pass(api: Api, headers: dict[str, str]) -> None:
    assert api.ask("GET", "/devices/full/metadata", headers=headers).status == 200


# ------------------------------------------------------------------------------------------ metrics and health


def test_metrics__are_prometheus_text_and_all_ours(api: Api) -> None:
    answer = api.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# ")}
    names |= {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    assert names
    assert [name for name in names if not name.startswith("stream_cache_")] == []
    assert [name for name in names if name.endswith("_created")] == []
    if promtool := shutil.which("promtool"):
        result = subprocess.run([promtool, "check", "metrics"], input=answer.body, capture_output=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def has_no_lag(api: Api) -> bool:
    return b"stream_cache_lag_records 0.0" in api.get("/metrics").body


def test_metrics__count_what_was_done(bench: Bench) -> None:
    values: dict[str, float] = {}
    for api in (bench.api, bench.other):
        wait_until(partial(has_no_lag, api), 10, "the lag to be 0")
        for line in api.get("/metrics").body.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = values.get(name, 0) + float(value)
    count = len(METADATA) + len(LISTED)
    assert values['stream_cache_records_total{result="reading"}'] >= count
    assert values['stream_cache_devices_total{result="written"}'] >= count
    assert values['stream_cache_flushes_total{result="ok"}'] >= 1
    assert values["stream_cache_lag_records"] == 0
    assert values["stream_cache_window_devices"] == 0
    assert values["stream_cache_unacked_records"] == 0


def test_health__is_live_and_ready_and_says_why(api: Api) -> None:
    assert (api.get("/health/live").status, api.get("/health/live").json["status"]) == (200, "live")
    ready = wait_until(
        lambda: (got := api.get("/health/ready")).json["status"] == "ready" and got, 10, "all to be well"
    )
    assert ready.status == 200
    assert set(ready.json["checks"]) == {"kafka", "group", "source_topic", "error_topic", "redis", "flush", "state"}
    assert set(ready.json["checks"].values()) == {"ok"}
    assert api.get("/health/ingest").status == 200
    assert api.get("/health/ingest").json == ready.json


# --------------------------------------------------------------------------------------------------- any worker


def test_any_worker__answers_for_any_device(bench: Bench) -> None:
    for device_id in [*METADATA, *LISTED[:20]]:
        assert bench.other.one(device_id).status == 200
        assert bench.api.one(device_id).body == bench.other.one(device_id).body


def test_spare_worker__is_ready(bench: Bench, tmp_path: Path) -> None:
    """A third one on two partitions has none, and answers all the same."""
    env = bench.topics.env() | RedisDatabase.of_url(bench.redis.url, 0).env()
    with Worker(tmp_path, env, name="three") as three:
        three.wait_ready()
        assert Api(three).one("full").status == 200
        assert three.terminate() == 0
    bench.api.worker.wait_ready()
    bench.other.worker.wait_ready()


# --------------------------------------------------------------------------------------------------- Redis away


def test_frozen_redis__is_told_in_time_and_passes(bench: Bench) -> None:
    """Every answer within 3 s, however many ask at once; no answer is crossed with another afterwards."""
    api = bench.api

    def timed(method: str, path: str, body: bytes | None = None) -> tuple[float, Answer]:
        began_s = time.monotonic()
        answer = api.ask(method, path, body)
        return time.monotonic() - began_s, answer

    bench.redis.freeze()
    try:
        with ThreadPoolExecutor(60) as threads:
            requests: list[tuple[str, str, bytes | None]] = [
                ("GET", "/devices/full/metadata", None),
                ("POST", "/devices/metadata", b'{"device_ids": ["full"]}'),
                ("GET", "/devices", None),
            ]
            lookups = [threads.submit(timed, *request) for request in requests * 16]
            ready, live = threads.submit(timed, "GET", "/health/ready"), threads.submit(timed, "GET", "/health/live")
            for lookup in lookups:
                seconds, answer = lookup.result()
                api.error(answer, 503, "redis_unavailable")
                assert int(answer.headers["Retry-After"]) >= 1
                assert seconds < 3
            seconds, answer = ready.result()
            assert answer.status == 503
            assert answer.json["status"] == "not_ready"
            assert answer.json["checks"]["redis"] != "ok"
            assert answer.json["checks"]["kafka"] == answer.json["checks"]["group"] == "ok"
            assert answer.json["checks"]["flush"] == answer.json["checks"]["state"] == "unknown"
            assert seconds < 3
            seconds, answer = live.result()
            assert answer.status == 200
            assert seconds < 1
        assert api.get("/metrics").status == 200
    finally:
        bench.redis.thaw()
    wait_until(lambda: api.get("/health/ready").status == 200, 20, "the worker to be ready again")
    with ThreadPoolExecutor(16) as threads:
        for device_id, answer in zip(LISTED, threads.map(api.one, LISTED), strict=True):
            assert (answer.status, answer.json["device_id"]) == (200, device_id)


def test_stopped_redis__is_told_and_passes(bench: Bench) -> None:
    api = bench.api
    bench.redis.stop()
    try:
        began_s = time.monotonic()
        api.error(api.one("full"), 503, "redis_unavailable")
        assert time.monotonic() - began_s < 3
        assert api.get("/health/live").status == 200
        assert api.get("/health/ready").status == 503
    finally:
        bench.redis.start()
    wait_until(lambda: api.one("full").status == 200, 20, "the lookup to work again")
