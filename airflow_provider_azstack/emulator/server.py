"""
Sockets: a threaded HTTP/1.1 server that hands calls to an application and writes its answers.

Owns connections, TLS, sending from files, and the faults that need a raw socket; knows nothing of
stacks. Invariant: ``stop`` ends every connection and every thread.
"""

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from airflow_provider_azstack.emulator.faults import Fault, Faults
from airflow_provider_azstack.emulator.http import Answer, Call, Extract
from airflow_provider_azstack.emulator.layers import Segment, segment_bytes

Application = Callable[[Call], Answer]
MAX_REQUEST_BODY = 64 << 20
_PIECE = 1 << 20
_ZEROS = memoryview(bytes(_PIECE))
_FRAGMENTED = 16  # more pieces per MiB than this are gathered in memory: fewer, larger sends
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close sends RST


class Server(ThreadingHTTPServer):
    """Serves one application on one port of 127.0.0.1."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self, port: int, application: Application, faults: Faults, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.application = application
        self.faults = faults
        self.tls = tls
        self.stopping = threading.Event()
        self.crashes: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        self._loop = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._loop.start()

    def stop(self) -> None:
        """End all connections, wait for their threads, close the port."""
        self.stopping.set()
        self.shutdown()
        self._loop.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; whole answers are sent at once, so Nagle only costs time."""
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(connection)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread; a client may well refuse our CA."""
        plain = request
        try:
            if self.tls:
                request = self.tls.wrap_socket(plain, server_side=True)
                self._connections.add(request)
            _Handler(request, client_address, self)
        except (OSError, ssl.SSLError):
            return
        finally:
            self._connections -= {plain, request}
            if request is not plain:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent: a client that went away is no news, and calls report their own crashes."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "StackEmulator"
    sys_version = ""
    wbufsize = 1 << 16  # status and headers leave in one piece
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Write nothing: the request log is the application's."""

    def parse_request(self) -> bool:
        """Route every method to one place."""
        if not super().parse_request():
            return False
        self.command, self._method = "any", self.command
        return True

    def do_any(self) -> None:
        """Answer one request."""
        length = int(self.headers.get("Content-Length") or 0)
        if "Transfer-Encoding" in self.headers or length > MAX_REQUEST_BODY:
            self.close_connection = True
            self.send_error(411 if length == 0 else 413)
            return
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self._method, self.path, headers, body, self.server.url)
        fault = self.server.faults.strike(call)
        if fault and fault.delay_seconds and self.server.stopping.wait(fault.delay_seconds):
            self.close_connection = True
            return
        answer = self._answer(call, fault)
        if fault and fault.hang_up:
            self._reset()
            return
        self._send(call, answer)

    def _answer(self, call: Call, fault: Fault | None) -> Answer:
        if fault and fault.instead:
            return fault.instead(call)
        try:
            answer = self.server.application(call)
        except Exception as crash:  # noqa: BLE001  a bug of the emulator: kept for tests, answered 500
            self.server.crashes.append(crash)
            return Answer(500, body=repr(crash).encode())
        return fault.alter(call, answer) if fault and fault.alter else answer

    def _send(self, call: Call, answer: Answer) -> None:
        body = answer.body
        length = body.length if isinstance(body, Extract) else len(body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        announced = length if answer.length is None else answer.length
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.flush()
        if call.method == "HEAD":
            return
        if answer.cut_at is not None:
            self.connection.sendall(answer.body_bytes[: answer.cut_at])
            self._reset()
        elif isinstance(body, Extract):
            self._send_extract(body)
        else:
            self.connection.sendall(body)

    def _send_extract(self, extract: Extract) -> None:
        segments = extract.content.segments(extract.offset, extract.length)
        if len(segments) > _FRAGMENTED * max(1, extract.length // _PIECE):
            self.connection.sendall(b"".join(map(segment_bytes, segments)))
            return
        for segment in segments:
            self._send_segment(segment)

    def _send_segment(self, segment: Segment) -> None:
        at, left = segment.offset, segment.length
        while left:
            piece = min(left, _PIECE)
            if segment.fd is None:
                self.connection.sendall(_ZEROS[:piece])
            elif self.server.tls:
                self.connection.sendall(segment_bytes(Segment(piece, segment.fd, at)))
            else:
                piece = os.sendfile(self.connection.fileno(), segment.fd, at, left)
                if piece == 0:  # pages past the end of a sparse file
                    segment = Segment(left, None, 0)
            at, left = at + piece, left - piece

    def _reset(self) -> None:
        """Close with RST: the client sees a broken connection, not an early end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            os.close(self.connection.detach())
