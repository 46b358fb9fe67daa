"""
A real S3 server on a port of this machine: moto's, with faults between it and the network.

moto is another project's reading of the S3 documentation, so a client that misreads it fails here.
It honours ``If-None-Match: *``. Its check and its write are not one step, as they are in S3, so
uploads pass one at a time.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any
from unittest.mock import patch

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environment = dict[str, Any]
Wsgi = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]

ACCESS_KEY = "canary-access-key"
SECRET_KEY = "canary-secret-key"
# Entries on a page of a listing. S3's own 1,000 would make every test of paging slow.
PAGE = 50


@dataclass
class Fault:
    """
    What happens to the next ``times`` requests of this method whose path holds ``path``.

    :param status: answer with it and never reach the server; 0 cuts the connection.
    :param effect: let the server do its work first; the client sees the fault all the same.
    """

    method: str
    path: str = ""
    status: int = 0
    times: int = 1
    effect: bool = False
    code: str = "Injected"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class S3Server:
    """``requests`` logs (method, path); ``faults`` may be appended to at any time."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    taking: Lock = field(default_factory=Lock)  # each request has a thread of its own

    def options(self) -> dict[str, str]:
        """Return the options that open a store on this server."""
        return {
            "endpoint": self.url,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.taking:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None


def _faulty(server: S3Server, app: Wsgi) -> Wsgi:
    uploads = Lock()

    def call(environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start_response)
        with uploads:
            return list(app(environ, start_response))

    def middleware(environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        server.requests.append((method, path))
        fault = server.take_fault(method, f"{path}?{environ['QUERY_STRING']}")
        if fault is None:
            return call(environ, start_response)
        if fault.effect:
            list(call(environ, lambda *_args: lambda _data: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if not fault.status:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        body = f"<Error><Code>{fault.code}</Code><Message>{SECRET_KEY}</Message></Error>".encode()
        status = f"{fault.status or 500} Injected"
        start_response(status, [("Content-Length", str(len(body))), *fault.headers])
        return [body]

    return middleware


@contextmanager
def s3_server(*buckets: str) -> Iterator[S3Server]:
    """Run a server with these buckets."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = S3Server()
    app = _faulty(server, DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, app, threaded=True)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        for bucket in buckets:
            _create_bucket(http.server_port, bucket)
        # Nothing of the developer's own account may slip in.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        clean["MOTO_S3_DEFAULT_MAX_KEYS"] = str(PAGE)
        with patch.dict(os.environ, clean, clear=True):
            yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _create_bucket(port: int, bucket: str) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{bucket}")
    assert connection.getresponse().status == 200
    connection.close()
