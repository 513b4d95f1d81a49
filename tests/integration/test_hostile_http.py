"""Clients that mean harm, or can't do better: a real worker refuses them, goes on with the others, and says little."""

import errno
import gzip
import http.client
import io
import json
import re
import resource
import select
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest

from tests import harness
from tests.conftest import Kafka
from tests.fakes import json_record
from tests.harness import Answer, Api, RedisDatabase, TopicNames, Worker, wait_until
from tests.services import RedisServer
from tests.services.machine import OPENSSL, ensure

MIB = 1024 * 1024
NOW_MS = int(time.time() * 1000)
TOKEN = "s3cret?token~!" * 3
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LONG_ID = "x" * 10_240
#: Each has its own id as its datatype's name, so that an answer tells which device it is about.
DEVICE_IDS = (
    *("a", "b", "a/b", "a%2Fb", "a%252Fb", "../a", "..", "/a", "a/", "a/../b", "a\x00", "a\n", "\x00", "\n", "A", " a"),
    *("*", "{}", "{device_id}", "é", "a:metadata", "\x1b[31mred", "a?", "a#", "a;b", "%", "%zz", LONG_ID),
)
DEVICE_ROUTES = (("GET", "/devices/a/metadata"), ("POST", "/devices/metadata"), ("GET", "/devices"))
SEAL = {
    "Server": "stream_cache",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
HEAD = b"Host: x\r\nConnection: close\r\n"
GET, POST = b"GET /devices HTTP/1.1\r\n" + HEAD, b"POST /devices/metadata HTTP/1.1\r\n" + HEAD
CHUNKED = b"Transfer-Encoding: chunked\r\n"
#: Twice the 15 s of a silent connection or an unread answer, or the 10 s of a body and as many for what is left of it;
#: and then some for a busy machine.
CUT_OFF_WITHIN_S = 50
FLOOD_COUNT = 2000


class Scene(NamedTuple):
    """What the workers of these tests share."""

    topics: TopicNames
    redis: RedisServer
    directory: Path

    @contextmanager
    def worker(self, name: str, tls: ssl.SSLContext | None = None, **env: str) -> Iterator[Api]:
        """Run a worker of a group of its own until it has taken the devices; at the end it must stop as it should."""
        group = {"KAFKA_CONSUMER_GROUP_ID": f"{self.topics.group}-{name}"}
        env = self.topics.env() | RedisDatabase.of_url(self.redis.url, 0).env() | group | env
        with Worker(self.directory / name, env, name=name) as worker:
            api = Api(worker, tls)
            wait_until(lambda: holds_all(api), 60, f"{name} to take readings, and to hold all devices")
            yield api
            assert worker.terminate() == 0, worker.log_tail()
            assert "Traceback" not in worker.log_text()


def holds_all(api: Api) -> bool:
    assert api.worker.is_running, api.worker.log_tail()
    try:
        if api.ask("GET", "/health/ingest", headers=BEARER).status != 200:
            return False
        return bool(api.ask("GET", "/devices", headers=BEARER).json["count"] == len(DEVICE_IDS))
    except (OSError, http.client.HTTPException):
        return False


@pytest.fixture(scope="module")
def scene(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Topics with the devices in them, and a Redis that holds them."""
    directory = tmp_path_factory.mktemp("hostile")
    topics = TopicNames.unique(kafka.bootstrap_servers)
    topics.create(1)
    made = [
        json_record(device_id, timestamp_ms=NOW_MS, metadata=json.dumps({"datatype_name": device_id}))
        for device_id in DEVICE_IDS
    ]
    records = [harness.Record(record.value, record.key, timestamp_ms=NOW_MS) for record in made]
    harness.produce(topics.bootstrap, topics.source, records)
    with RedisServer(directory / "redis") as redis:
        yield Scene(topics, redis, directory)
    harness.delete_topics(topics.bootstrap, (topics.source, topics.errors))


@pytest.fixture(scope="module")
def open_worker(scene: Scene) -> Iterator[Api]:
    """A worker that asks for no token."""
    with room_for_files(), scene.worker("open") as api:
        yield api


@pytest.fixture
def api(open_worker: Api) -> Iterator[Api]:
    """That worker; whatever a test does to it, it answers afterwards and has logged no stack trace."""
    log_length = len(open_worker.worker.log_text())
    yield open_worker
    assert open_worker.one("a").json["device_id"] == "a"
    logged = open_worker.worker.log_text()[log_length:]
    assert "Traceback" not in logged
    assert "a request failed" not in logged


@pytest.fixture(scope="module")
def guarded(scene: Scene) -> Iterator[Api]:
    """A worker that asks for a token, but not on its health and metrics pages; it logs all it can, and waits little."""
    with scene.worker("guarded", API_TOKEN=f"{TOKEN}\n", LOG_LEVEL="DEBUG", WEB_KEEPALIVE_S="1", WEB_BIND="::") as api:
        yield api


class Certificate(NamedTuple):
    cert: Path
    key: Path


def make_certificate(directory: Path, *, password: str = "") -> Certificate:
    """Make a self-signed certificate of 127.0.0.1."""
    directory.mkdir()
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(made.key), "-out", str(made.cert)]
    secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run([ensure(OPENSSL), *request, *names, *files, *secret], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def secure(scene: Scene) -> Iterator[Api]:
    """A worker that serves HTTPS, and asks for its token on every page."""
    certificate = make_certificate(scene.directory / "certificate")
    files = {"WEB_TLS_CERT_FILE": str(certificate.cert), "WEB_TLS_KEY_FILE": str(certificate.key)}
    tls = ssl.create_default_context(cafile=str(certificate.cert))
    with scene.worker("secure", tls, API_TOKEN=TOKEN, HEALTH_NEEDS_TOKEN="true", **files) as api:
        yield api


@contextmanager
def room_for_files() -> Iterator[None]:
    """Let this process, and the children that it starts, hold the connections of a flood."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FLOOD_COUNT + 1000
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_socket(api: Api, *pieces: bytes, timeout_s: float = 10) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", api.worker.web_port), timeout=timeout_s)
    for piece in pieces:
        connection.sendall(piece)
    return connection


def exchange(api: Api, text: bytes, *, is_cut: bool = False) -> bytes:
    """Send bytes as they are, `is_cut` then no more for ever; return all that comes until the worker closes."""
    received = b""
    with open_socket(api) as connection:
        try:
            connection.sendall(text)
            if is_cut:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass  # closed too, though with bytes of ours unread
    return received


def ask_for(api: Api, target: str) -> bytes:
    """Ask for a target that no client would write so."""
    return exchange(api, f"GET {target} HTTP/1.1\r\n".encode() + HEAD + b"\r\n")


def parse(received: bytes) -> Answer:
    """Parse the one answer that there may be."""
    assert received.count(b"HTTP/1.") == 1, received
    come: Any = SimpleNamespace(makefile=lambda _mode: io.BytesIO(received))
    with http.client.HTTPResponse(come) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read())


def assert_sealed(answer: Answer) -> None:
    """Check the headers that every answer has, and that none tells what the worker is made of."""
    assert {name: answer.headers[name] for name in SEAL} == SEAL
    told = str(answer.headers) + answer.body.decode()
    assert not re.search("aiohttp|python|faust|uvloop|traceback", told, re.IGNORECASE)


def assert_refused(api: Api, received: bytes, status: int = 400) -> None:
    """Check that there is one answer: an error of this status in the contract's form."""
    answer = parse(received)
    assert answer.status == status
    api.error(answer, answer.status, answer.json["error"]["code"])
    assert_sealed(answer)


def is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the other side has closed or reset it, whatever there is to read."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


# ------------------------------------------------------------------------------------------------------------- token


@pytest.mark.parametrize(("method", "path"), DEVICE_ROUTES)
@pytest.mark.parametrize(
    "sent",
    [
        *(None, "", " ", "Bearer", "Bearer ", "Basic", f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}", "Bearer null"),
        *(f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} {TOKEN}"),
        *(f"Bearer {TOKEN},", f'Bearer "{TOKEN}"', f"Bearer Bearer {TOKEN}", "Bearer " + "x" * 8000),
        *("Bearer \xff\xfe", "\xff", "Bearer é", f"Bearer {TOKEN}\xff", "Bearer " + TOKEN.replace("?", "\xff")),
    ],
    ids=lambda sent: ascii(sent)[:24],
)
def test_token__that_is_missing_or_wrong_is_401(guarded: Api, method: str, path: str, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    answer = guarded.ask(method, path, b'{"device_ids": ["a"]}', headers)
    guarded.error(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert_sealed(answer)
    assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("sent", [b"Bearer \x00", b"Bearer " + b"x" * 100_000], ids=["NUL", "endless"])
def test_token__that_no_header_may_hold_is_refused(guarded: Api, sent: bytes) -> None:
    assert_refused(guarded, exchange(guarded, GET + b"Authorization: " + sent + b"\r\n\r\n"))


@pytest.mark.parametrize(("method", "path"), DEVICE_ROUTES)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_token__that_is_right_is_let_in(guarded: Api, method: str, path: str, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert guarded.ask(method, path, b'{"device_ids": ["a"]}', headers).status == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/ingest", "/metrics", "/"])
def test_health_and_metrics__need_the_token_only_where_they_are_told_to(guarded: Api, secure: Api, path: str) -> None:
    assert guarded.get(path).status == 200
    secure.error(secure.get(path), 401, "unauthorized")
    secure.error(secure.ask("GET", path, headers={"Authorization": "Bearer x"}), 401, "unauthorized")
    assert secure.ask("GET", path, headers=BEARER).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *((target, 401) for target in ("/nothing", "//devices", "/devices?/health/live", "/./devices")),
        *((target, 401) for target in ("/devices/a/metadata?x=/metrics", "/devices#/health/live", "http://x/devices")),
        ("/devices/..%2Fhealth%2Flive/metadata", 401),
        # These begin as what is open to all does, and lead nowhere.
        *((target, 404) for target in ("/health/../devices", "/metrics/../devices/a/metadata", "/metrics;/../devices")),
        *((target, 404) for target in ("/health/%2e%2e/devices", "/%68ealth/..%2Fdevices", "/metrics%2F..%2Fdevices")),
        *((target, 404) for target in ("http://x/health/../devices", "/health/live/../../devices")),
    ],
)
def test_no_path__gets_around_the_token(guarded: Api, target: str, status: int) -> None:
    assert_refused(guarded, ask_for(guarded, target), status)


def test_no_header__gets_around_the_token(guarded: Api) -> None:
    headers = {
        "X-Original-URL": "/health/live",
        "X-Rewrite-URL": "/health/live",
        "X-HTTP-Method-Override": "GET",
        "X-Forwarded-For": "127.0.0.1",
        "Cookie": f"token={TOKEN}",
        "Proxy-Authorization": f"Bearer {TOKEN}",
    }
    guarded.error(guarded.ask("GET", f"/devices?token={TOKEN}", headers=headers), 401, "unauthorized")


def test_token__is_in_no_log(guarded: Api, secure: Api) -> None:
    """Not even with LOG_LEVEL=DEBUG, and neither is a wrong one, which may be right elsewhere."""
    guarded.ask("GET", "/devices", headers=BEARER)
    guarded.ask("GET", "/devices", headers={"Authorization": "Bearer of-elsewhere"})
    for api in (guarded, secure):
        assert TOKEN not in api.worker.log_text()
        assert "of-elsewhere" not in api.worker.log_text()


# --------------------------------------------------------------------------------------------------------------- TLS


def test_tls__serves_what_plain_http_does(secure: Api) -> None:
    answer = secure.ask("GET", "/devices/a/metadata", headers=BEARER)
    assert (answer.status, answer.json["device_id"]) == (200, "a")
    assert_sealed(answer)
    secure.error(secure.one("a"), 401, "unauthorized")


@pytest.mark.parametrize(
    "text",
    [
        GET + b"\r\n",
        GET + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode(),
        b"\x00" * 500,
        b"\x16\x03\x01\x02\x00" * 99,
    ],
    ids=["no token", "token", "zeros", "half a hello"],
)
def test_tls__gives_nothing_to_who_speaks_plainly(secure: Api, text: bytes) -> None:
    received = exchange(secure, text, is_cut=True)
    assert b"HTTP" not in received
    assert b"device" not in received
    assert secure.ask("GET", "/health/live", headers=BEARER).status == 200


def test_tls__is_not_old(secure: Api) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with open_socket(secure) as connection, pytest.raises(ssl.SSLError, match=r"(?i)protocol|version"):
        old.wrap_socket(connection)


@pytest.mark.parametrize("spoilt", ["another key", "no key", "no PEM", "key alone", "folder", "encrypted key"])
def test_tls_files__that_are_wrong_exit_1_with_one_line(tmp_path: Path, spoilt: str) -> None:
    """Nobody is there to type an encrypted key's password."""
    good = make_certificate(tmp_path / "good")
    (tmp_path / "text.pem").write_text("no PEM")
    files = {
        "another key": good._replace(key=make_certificate(tmp_path / "other").key),
        "no key": good._replace(key=tmp_path / "absent.pem"),
        "no PEM": good._replace(cert=tmp_path / "text.pem"),
        "key alone": good._replace(cert=good.key),
        "folder": good._replace(cert=tmp_path),
        "encrypted key": make_certificate(tmp_path / "encrypted", password="hunter2"),
    }[spoilt]
    with Worker(tmp_path, {"WEB_TLS_CERT_FILE": str(files.cert), "WEB_TLS_KEY_FILE": str(files.key)}) as worker:
        assert worker.wait_exit(30) == 1
    (line,) = worker.log_text().splitlines()
    assert re.search(r"WEB_TLS_(CERT|KEY)_FILE", line)
    assert str(files.cert) in line or str(files.key) in line


# ------------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"BREW /devices/a/metadata HTTP/1.1\r\n", 400),
        (b"get /devices/a/metadata HTTP/1.1\r\n", 400),
        (b"G@T /devices/a/metadata HTTP/1.1\r\n", 400),
        (b"TRACE /devices/a/metadata HTTP/1.1\r\n", 405),
        (b"OPTIONS /devices/a/metadata HTTP/1.1\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\n", 404),
        (b"CONNECT /devices/a/metadata HTTP/1.1\r\n", 404),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n", 404),
        (b"CONNECT elsewhere:99999 HTTP/1.1\r\n", 400),
        (b"PRI * HTTP/2.0\r\n", 400),
        (b"GET http://[::1/devices HTTP/1.1\r\n", 400),
        (b"GET http://x:y/devices HTTP/1.1\r\n", 400),
        (b"GET devices HTTP/1.1\r\n", 400),
        (b"GET  HTTP/1.1\r\n", 400),
        (b"GET /devices\r\nHTTP/1.1\r\n", 400),
        (b"GET /devices/\xc3\xa9/metadata HTTP/1.1\r\n", 400),
        (b"GET /devices/\xff/metadata HTTP/1.1\r\n", 400),
        (b"GET /devices/a\x00b/metadata HTTP/1.1\r\n", 400),
        (b"GET /devices/\x1b[31m/metadata HTTP/1.1\r\n", 400),
    ],
    ids=lambda value: ascii(value)[2:32],
)
def test_odd_request_line__is_refused(api: Api, head: bytes, status: int) -> None:
    assert_refused(api, exchange(api, head + HEAD + b"\r\n"), status)


@pytest.mark.parametrize(
    "text",
    [
        b"\x00" * 1000,
        b"\xff" * 100_000,
        b"A" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff\x00" * 250,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"SSH-2.0-x\r\n",
        b"EHLO x\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET /devices HTTP/1.1\nHost: x\n\n",
        b"GET /devices HTTP/1.1\r\n\r\n",
        b"GET /devices HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        GET + b"X : y\r\n\r\n",
        GET + b"X: y\r\n z\r\n\r\n",
        GET + b"X\xff: y\r\n\r\n",
        GET + b": y\r\n\r\n",
        GET + b"X: \x00\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /devices?limit=" + b"1" * 100_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
        GET + b"X: " + b"a" * MIB,
        GET + b"X" * MIB + b": y\r\n\r\n",
        GET + b"".join(b"X%d: y\r\n" % number for number in range(500)) + b"\r\n",
        GET + b"Cookie: a\r\n" * 100_000 + b"\r\n",
        GET + (b"Cookie: " + b"a" * 30_000 + b"\r\n") * 100 + b"\r\n",
    ],
    ids=lambda text: ascii(text.removeprefix(GET))[2:26],
)
def test_what_is_no_http__is_refused_and_the_connection_closed(api: Api, text: bytes) -> None:
    assert_refused(api, exchange(api, text))


def test_http_0_9__shows_no_more_than_http_does(api: Api, guarded: Api) -> None:
    received = exchange(api, b"GET /devices\r\n\r\n")
    assert b"Server: stream_cache\r\n" in received
    assert b" 401 " in exchange(guarded, b"GET /devices\r\n\r\n")


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Content-Length: 2 2\r\n\r\n{}",
        b"Content-Length: \r\n\r\n",
        b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
        CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + b"".join(b"X%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    ],
    ids=lambda rest: ascii(rest)[2:50],
)
def test_length__that_can_be_read_in_two_ways_is_refused(api: Api, rest: bytes) -> None:
    """What one server takes for a body, another might take for a second request: exactly one answer comes, an error."""
    assert_refused(api, exchange(api, POST.replace(b"Connection: close\r\n", b"") + rest))


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_upgrade__is_declined(api: Api, protocol: str) -> None:
    """The request is answered, and the next one on that connection too: Java's client offers HTTP/2 on every first."""
    with closing(api.connect()) as connection:
        for headers in ({"Connection": "Upgrade", "Upgrade": protocol}, {}):
            connection.request("POST", "/devices/metadata", b'{"device_ids": ["a"]}', headers)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["missing"]) == (200, [])


def test_expectation__that_cannot_be_met_is_refused_in_our_form(api: Api) -> None:
    assert_refused(api, exchange(api, POST + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\n{}"))


# ---------------------------------------------------------------------------------------------------------- the body


@pytest.mark.parametrize("length", [MIB + 1, 10 * 1024**3])
@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
def test_body__that_is_announced_as_too_large_is_413_before_it_is_sent(api: Api, length: int, expect: bytes) -> None:
    with open_socket(api, POST, expect, b"Content-Length: %d\r\n\r\n" % length, timeout_s=5) as connection:
        received = b""
        while b"}}" not in received:
            piece = connection.recv(65536)
            assert piece
            received += piece
    answer = parse(received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    api.error(answer, 413, "body_too_large")
    assert_sealed(answer)


def test_body__that_is_compressed_is_refused_and_never_unpacked(api: Api) -> None:
    """1 MiB may stand for 1 GiB."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(b" " * MIB) for _ in range(200)]) + packer.flush()
    rss_bytes = api.worker.rss_bytes()
    for body in (bomb, gzip.compress(b'{"device_ids": ["a"]}'), b"no gzip"):
        answer = api.ask("POST", "/devices/metadata", body, {"Content-Encoding": "gzip"}, timeout_s=5)
        assert "compressed" in api.error(answer, 400, "invalid_request")
    assert api.worker.rss_bytes() - rss_bytes < 20 * MIB


@pytest.mark.parametrize(
    "text",
    [
        POST + b"Content-Length: 50\r\n\r\n",
        POST + b'Content-Length: 50\r\n\r\n{"device_ids": ["a"]}',
        POST + CHUNKED + b"\r\n",
        POST + CHUNKED + b"\r\n32\r\nabc",
        GET + b"X: ",
        b"GET",
    ],
    ids=lambda text: ascii(text[-24:])[2:26],
)
def test_request__that_breaks_off_leaves_no_trace(api: Api, text: bytes) -> None:
    """Nobody is left to answer; the `api` fixture looks at the log."""
    assert exchange(api, text, is_cut=True) == b""


# --------------------------------------------------------------------------------------------------------- the answer


def test_every_answer__has_the_headers_that_seal_it(api: Api) -> None:
    """Here those that are no refusal of what is above; those are looked at there."""
    bulk = b'{"device_ids": ["a"]}'
    answers = [
        *(api.get(path) for path in ("/", "/devices", "/devices/a/metadata", "/health/live", "/health/ready")),
        *(api.get(path) for path in ("/devices?limit=x", "/devices/nobody/metadata", "/nothing")),
        api.ask("DELETE", "/devices"),
        api.ask("POST", "/devices/metadata", bulk),
        api.ask("POST", "/devices/metadata", bulk.ljust(MIB + 1)),
    ]
    for answer in answers:
        assert answer.headers["Content-Type"].split(";")[0] == "application/json"
        assert_sealed(answer)
    metrics = api.get("/metrics").headers
    assert {name: metrics[name] for name in SEAL} == SEAL


# --------------------------------------------------------------------------------------------------- paths and devices


@pytest.mark.parametrize(
    ("text", "device_id"),
    [
        *(("a", "a"), ("%61", "a"), ("a%2Fb", "a/b"), ("a%2fb", "a/b"), ("a%252Fb", "a%2Fb"), ("a%25252Fb", "a%252Fb")),
        *(("..%2Fa", "../a"), ("%2e%2e%2fa", "../a"), ("%2Fa", "/a"), ("a%2F", "a/"), ("a%2F..%2Fb", "a/../b")),
        *(("a%00", "a\x00"), ("a%0A", "a\n"), ("%00", "\x00"), ("%0A", "\n"), ("%1b[31mred", "\x1b[31mred")),
        *(("*", "*"), ("%2A", "*"), ("{}", "{}"), ("%7B%7D", "{}"), ("{device_id}", "{device_id}"), ("%20a", " a")),
        *(("%C3%A9", "é"), ("a:metadata", "a:metadata"), ("a%3F", "a?"), ("a%23", "a#"), ("a;b", "a;b"), ("A", "A")),
        *(("%", "%"), ("%25", "%"), ("%zz", "%zz"), (LONG_ID, LONG_ID), ("%78" * len(LONG_ID), LONG_ID)),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_path__leads_to_exactly_the_device_it_spells(api: Api, text: str, device_id: str) -> None:
    answer = parse(ask_for(api, f"/devices/{text}/metadata"))
    assert (answer.status, answer.json["device_id"], answer.json["datatype_name"]) == (200, device_id, device_id)


@pytest.mark.parametrize(
    "text",
    [
        *("a/b", "a/../b", "./a", "a/.", "../a", "b/../a", "a%2", "a%20", "%20a%20", "a+", "a%", "%2", "a%00%00"),
        *("%EF%BD%81", "e%CC%81", "%C0%AF", "a%C0%AFb", "%E0%80%AF", "%F0%80%80%AF", "%C1%A1", "%FF", "a%FF", "%61%80"),
        *("a%u002Fb", "a\\b", "a%5Cb", "a?", "a#", "a;", "a*", "?", "[ab]", "a%0D", "{device_id:.*}", "b%2F..%2Fa"),
        *("%F4%90%80%80", "%ED%A0%80", LONG_ID + "x", LONG_ID[1:], "%25" * 10_000, "", "%2e%2e%2fb"),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_path__that_spells_no_device_leads_to_none(api: Api, text: str) -> None:
    """Nothing is normalised, trimmed, cut or matched as a pattern."""
    is_text = is_utf_8(unquote_to_bytes(text))
    assert_refused(api, ask_for(api, f"/devices/{text}/metadata"), 404 if is_text else 400)


# ------------------------------------------------------------------------------------------------------ slow and many


class SlowClient:
    """A client that begins a request, and then sends `drop` again and again, or nothing."""

    def __init__(self, api: Api, name: str, begin: bytes, drop: bytes = b"", *, reads: bool = True) -> None:
        self.name, self._drop = name, drop
        self._connection = socket.socket()
        if not reads:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._connection.settimeout(5)
        self._connection.connect(("127.0.0.1", api.worker.web_port))
        self._connection.setblocking(False)
        self._rest = begin

    def send(self) -> None:
        """Send what can be sent now."""
        try:
            sent = self._connection.send(self._rest or self._drop)
        except BlockingIOError:
            return
        except OSError as error:
            assert error.errno in {errno.EPIPE, errno.ECONNRESET}  # noqa: PT017 - no other trouble may pass
            return
        self._rest = self._rest[sent:]

    @property
    def is_cut_off(self) -> bool:
        return is_closed(self._connection)

    def close(self) -> None:
        self._connection.close()


def test_slow_clients__are_cut_off_and_hold_up_nobody(api: Api) -> None:
    """Whatever it is that they are slow with; the others are answered all the while, and may wait between requests."""
    ids = json.dumps({"device_ids": [f"{number:0900}" for number in range(1000)]}).encode()
    large = b"POST /devices/metadata HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(ids) + ids
    asked = b"GET /devices HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        waiting = stack.enter_context(closing(api.connect()))
        waiting.request("GET", "/devices/a/metadata")
        waiting.getresponse().read()
        began_s = time.monotonic()
        clients = [
            stack.enter_context(closing(client))
            for client in (
                SlowClient(api, "silent", b""),
                SlowClient(api, "request line", b"GET /devices", b"x"),
                SlowClient(api, "headers", b"GET /devices HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
                SlowClient(api, "empty lines", b"\r\n", b"\r\n"),
                SlowClient(api, "second request", asked, b"G"),
                SlowClient(api, "body", POST + b"Content-Length: 1000\r\n\r\n", b"x"),
                SlowClient(api, "body in chunks", POST + CHUNKED + b"\r\n", b"1\r\nx\r\n"),
                SlowClient(api, "endless body", POST + CHUNKED + b"\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
                SlowClient(api, "body of a GET", GET + b"Content-Length: 1000\r\n\r\n", b"x"),
                SlowClient(api, "body with an error in it", POST + CHUNKED + b"\r\n", b"z"),
                SlowClient(api, "reading", large * 20, reads=False),
            )
        ]

        def slow_ones() -> list[str]:
            for client in clients:
                client.send()
            asked_s = time.monotonic()
            assert api.get("/health/live").status == 200
            assert api.one("a").status == 200
            assert time.monotonic() - asked_s < 5
            return [client.name for client in clients if not client.is_cut_off]

        wait_until(lambda: not slow_ones(), CUT_OFF_WITHIN_S, "all slow clients to be cut off", interval_s=0.2)
        assert time.monotonic() - began_s > 10  # WEB_KEEPALIVE_S is 75
        connected = waiting.sock
        waiting.request("GET", "/devices/a/metadata")
        assert waiting.getresponse().status == 200
        assert waiting.sock is connected


def test_connection__that_waits_for_its_next_request_is_kept_for_the_time_that_is_set(guarded: Api) -> None:
    """Of one second here; and whoever begins a request in time has 15 s for the rest of its head."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        begun, idle = (stack.enter_context(open_socket(guarded, request)) for _ in range(2))
        for connection in (begun, idle):
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        begun.sendall(request[:1])
        wait_until(lambda: is_closed(idle), 5, "the idle connection to be closed")
        begun.sendall(request[1:])
        assert begun.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_bind__to_all_addresses_of_ipv6_is_of_ipv4_too(guarded: Api) -> None:
    for host in ("127.0.0.1", "::1"):
        with closing(http.client.HTTPConnection(host, guarded.worker.web_port, timeout=5)) as connection:
            connection.request("GET", "/health/live")
            assert connection.getresponse().status == 200


def connect_many(api: Api, count: int) -> list[socket.socket]:
    """Begin as many connections, without waiting for any."""
    flood = []
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", api.worker.web_port))
        flood.append(connection)
    return flood


def are_connected(flood: list[socket.socket]) -> bool:
    """Tell whether none of them still waits to be let in."""
    poll = select.poll()
    for connection in flood:
        poll.register(connection, select.POLLOUT)
    return len(poll.poll(0)) == len(flood)


def open_file_count(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))


def test_flood_of_silent_connections__keeps_nobody_out(api: Api) -> None:
    """Twice as many as there may be. Who has asked before keeps its connection; the probes see no outage."""
    worker = api.worker
    rss_bytes, file_count = worker.rss_bytes(), open_file_count(worker)
    with closing(api.connect()) as regular, ExitStack() as stack:

        def is_kept() -> bool:
            regular.request("GET", "/devices/a/metadata")
            return bool(json.loads(regular.getresponse().read())["device_id"] == "a")

        assert is_kept()
        flood = [stack.enter_context(connection) for connection in connect_many(api, FLOOD_COUNT)]
        wait_until(lambda: is_kept() and are_connected(flood), 30, "the flood to be in")
        for path in ("/health/live", "/health/ready", "/devices/a/metadata"):
            began_s = time.monotonic()
            assert worker.get(path)[0] == 200
            assert time.monotonic() - began_s < 5
        assert open_file_count(worker) - file_count < FLOOD_COUNT * 0.6  # WEB_MAX_CONNECTIONS is 1000
        assert worker.rss_bytes() - rss_bytes < 100 * MIB
        assert is_kept()
    wait_until(lambda: open_file_count(worker) < file_count + 20, 10, "the flood's connections to be closed")
    worker.wait_ready(5)


def is_live(api: Api) -> bool:
    try:
        return api.get("/health/live").status == 200
    except ConnectionError:
        return False


def begin_bulk(api: Api) -> socket.socket:
    """Send the head of a request for `{"device_ids": ["a"]}`; return the connection once the worker waits for the rest.

    Tries again: the connection of whoever asked just before may not be quite closed, and counts.
    """
    head = b"POST /devices/metadata HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 21\r\n\r\n"

    def begin() -> list[socket.socket]:
        connection = open_socket(api)
        try:
            connection.sendall(head)
            if connection.recv(65536).startswith(b"HTTP/1.1 100 "):
                return [connection]
        except ConnectionError:
            pass
        connection.close()
        return []

    return wait_until(begin, 5, "a connection to be let in")[0]


@pytest.fixture
def tight(scene: Scene) -> Iterator[Worker]:
    """A worker that takes two connections at a time."""
    env = scene.topics.env() | RedisDatabase.of_url(scene.redis.url, 0).env()
    env |= {"WEB_MAX_CONNECTIONS": "2", "KAFKA_CONSUMER_GROUP_ID": f"{scene.topics.group}-tight"}
    with Worker(scene.directory / "tight", env, name="tight") as worker:
        worker.wait_ready()
        yield worker


def test_connection_too_many__is_closed_at_once_and_slow_clients_do_not_hold_up_the_exit(tight: Worker) -> None:
    """Nobody may be turned out in the middle of a request; a SIGTERM still ends with 0 within 10 s."""
    api = Api(tight)
    with begin_bulk(api) as first, begin_bulk(api):
        assert exchange(api, GET + b"\r\n") == b""
        first.sendall(b'{"device_ids": ["a"]}')
        assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: is_live(api), 5, "a connection in the place of the first one, which is idle now")
        began_s = time.monotonic()
        assert tight.terminate() == 0, tight.log_tail()
        assert time.monotonic() - began_s < 10
    assert "Traceback" not in tight.log_text()
