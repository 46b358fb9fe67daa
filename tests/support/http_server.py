"""A threaded HTTP server on 127.0.0.1 that answers from a script and records what came."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Came(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes = b""
    hold_seconds: float = 0.0  # says nothing for so long (or until the server stops)


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, answer: Callable[[Came], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.came: list[Came] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 5
    server: ScriptedServer

    def _handle(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        came = Came(self.command, self.path, headers)
        self.server.came.append(came)
        reply = self.server.answer(came)
        if reply.hold_seconds:
            self.server.stopping.wait(reply.hold_seconds)
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Stay silent: what came is in ``came``."""


@contextmanager
def serving(answer: Callable[[Came], Reply]) -> Iterator[ScriptedServer]:
    server = ScriptedServer(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
