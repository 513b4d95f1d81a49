"""The files of docs/proxies.md, run: a path and large headers arrive at a worker as they were sent."""

import http.client
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.services import ChildProcess, free_port
from tests.services.machine import CLONE

DEVICE_IDS = ("meter/4:B", "a//b", "50%25", "a/../b", "ü/° {x}", "a%2Fb", "?#;\\")
NGINX = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{config}
}}
"""


class Proxy(ChildProcess):
    """A proxy with the configuration of the page."""

    def __init__(self, folder: Path, command: Sequence[str], port: int) -> None:
        super().__init__("proxy", folder)
        self._command, self.port = command, port

    def start(self) -> None:
        self.spawn(self._command)

    def what_lacks(self) -> str:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError as error:
            return str(error)
        return ""


@contextmanager
def running_backend() -> Iterator[tuple[int, list[str]]]:
    """Answer every GET as a worker would; yield the port, and the list that the paths go to."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Backend(ThreadingHTTPServer):
        daemon_threads = True

    with Backend(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server.server_port, paths
        server.shutdown()


def of_the_page(language: str, port: int, backend: int) -> str:
    """Return the page's block in that language, with addresses of this machine."""
    page = (CLONE / "docs/proxies.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    block = re.sub(r"worker-\d:6066", f"127.0.0.1:{backend}", block)
    return re.sub(r"(listen |bind :)8080", lambda match: f"{match[1].replace(':', '')}127.0.0.1:{port}", block)


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_proxy__hands_on_ids_and_cookies_as_they_came(program: str, tmp_path: Path) -> None:
    path = shutil.which(program, path="/usr/sbin:/usr/bin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    port, file = free_port(), tmp_path / "config"
    with running_backend() as (backend, paths):
        config = of_the_page(program, port, backend)
        file.write_text(NGINX.format(folder=tmp_path, config=config) if program == "nginx" else config)
        proxy = Proxy(tmp_path, [path, "-c" if program == "nginx" else "-f", str(file)], port)
        proxy.start()
        try:
            proxy.wait_ready(20)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            wanted = [f"/devices/{quote(device_id, safe='')}/metadata" for device_id in DEVICE_IDS]
            for each in wanted:
                connection.request("GET", each, headers={"Cookie": "x" * 30_000})
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"")
            connection.close()
        finally:
            proxy.terminate()
        assert [each for each in paths if each != "/health/ready"] == wanted
