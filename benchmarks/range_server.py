"""
An HTTP server of one file's ranges, as a program: ``range_server.py FILE`` prints its port.

It answers with ``sendfile``, one thread per connection. Apart from the disks that are read through
it, because a program that is measured does not load a server.
"""

import http.server
import os
import socketserver
import sys
from pathlib import Path


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers in one packet
    disable_nagle_algorithm = True
    path_served: Path

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        length = last - first + 1
        self.send_response(206)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.flush()
        with self.path_served.open("rb") as file:
            while length:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), first, length)
                first, length = first + sent, length - sent

    def log_message(self, *_: object) -> None:
        """Say nothing: the server is a part of a measurement."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def main() -> None:
    """Serve one file's ranges."""
    _Handler.path_served = Path(sys.argv[1])
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
