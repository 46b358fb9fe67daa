"""
A bucket in a directory, as a program: ``bucket_server.py --serve JSON`` answers as S3 does.

It knows what our stores ask for and no more: objects created if absent, ranges, listings by pages,
deletions. It checks no signature, and it waits before each answer as long as it was told: a store
that is far away. Apart from who uses it, because a program that is measured does not load a server.
For each line of its input it prints how often it was asked since the line before, by verb.
"""

import argparse
import http.server
import json
import socketserver
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from processes import await_all, start, tell

from airflow_provider_azstack.errors import ObjectExists, ObjectNotFound
from airflow_provider_azstack.store import ObjectInfo, Store, open_store
from airflow_provider_azstack.store.local import LocalStore

PAGE = 1000  # objects on a page of a listing, as S3 has
BUCKET = "bucket"


class Bucket:
    """A running server, as who measures sees it."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.port = int(process.stdout.readline())

    def counts(self) -> dict[str, int]:
        """Return the requests since this was last asked, by verb."""
        tell(self._process, "counts")
        found: dict[str, int] = json.loads(self._process.stdout.readline())
        return found


@contextmanager
def bucket(directory: Path, latency_ms: int) -> Iterator[Bucket]:
    """Run a server of what a ``LocalStore`` keeps in a directory."""
    told = {"directory": str(directory), "seconds": latency_ms / 1000}
    with start(__file__, "--serve", told) as process:
        try:
            await_all([process])
            yield Bucket(process)
        finally:
            process.terminate()


def reached(port: int) -> Store:
    """Open the bucket that is served on a port."""
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "access_key_id": "benchmark",
        "secret_access_key": "benchmark",
    }
    return open_store(f"s3://{BUCKET}", options=options)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, directory: str, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = LocalStore(directory)
        self.seconds = seconds
        self._listed: dict[str, list[ObjectInfo]] = {}
        self._counts = Counter[str]()
        self._lock = threading.Lock()

    def count(self, verb: str) -> None:
        with self._lock:
            self._counts[verb] += 1

    def listed(self, prefix: str, after: str) -> list[ObjectInfo]:
        """Return what is listed after a name: for all pages of a listing looked up once."""
        if not after:
            self._listed[prefix] = sorted(self.store.list(prefix))
        found = self._listed[prefix]
        return found[bisect_right(found, after, key=attrgetter("name")) :]

    def taken_counts(self) -> dict[str, int]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers in one packet
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        name, asked = self._asked()
        if name:
            self._object(name)
        else:
            self._listing(asked)

    def do_HEAD(self) -> None:
        self._object(self._asked()[0])

    def do_PUT(self) -> None:
        name, _ = self._asked()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.count("PUT")
        try:
            self.server.store.put(name, data)
        except ObjectExists:
            self._answer(412)
        else:
            self._answer(200)

    def do_DELETE(self) -> None:
        self.server.count("DELETE")
        with suppress(ObjectNotFound):  # S3 says yes to that
            self.server.store.delete(self._asked()[0])
        self._answer(204)

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).removeprefix(f"/{BUCKET}").strip("/"), parse_qs(parts.query)

    def _object(self, name: str) -> None:
        self.server.count(self.command)
        store = self.server.store
        try:
            size = store.info(name).size_bytes
        except ObjectNotFound:
            self._answer(404)
            return
        if self.command == "HEAD":
            self._answer(200, length=size)
            return
        first, last = 0, size - 1
        if wanted := self.headers.get("Range"):
            start_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start_text), min(size - 1, int(last_text or size - 1))
        if wanted and first >= size:
            self._answer(416)
            return
        more = {"Content-Range": f"bytes {first}-{last}/{size}"} if wanted else {}
        data = store.get_range(name, first, last + 1 - first)
        self._answer(206 if wanted else 200, data, **more)

    def _listing(self, asked: dict[str, list[str]]) -> None:
        self.server.count("LIST")
        prefix = asked.get("prefix", [""])[0]
        after = asked.get("continuation-token", [""])[0]
        found = self.server.listed(prefix, after)
        page = found[:PAGE]
        entries = "".join(
            f"<Contents><Key>{escape(info.name)}</Key><Size>{info.size_bytes}</Size>"
            '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
            for info in page
        )
        token = ""
        if len(found) > PAGE:
            token = f"<NextContinuationToken>{page[-1].name}</NextContinuationToken>"
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{token}"
            f"{entries}</ListBucketResult>".encode(),
        )

    def _answer(
        self, status: int, data: bytes = b"", length: int | None = None, **headers: str
    ) -> None:
        time.sleep(self.server.seconds)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing: the server is a part of a measurement."""


def main() -> None:
    """Serve, and answer each line of the input by what was asked for since the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", required=True, type=json.loads)
    server = _Server(**parser.parse_args().serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    print(server.server_address[1], flush=True)
    for _ in sys.stdin:
        print(json.dumps(server.taken_counts()), flush=True)


if __name__ == "__main__":
    main()
