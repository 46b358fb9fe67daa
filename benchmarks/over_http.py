#!/usr/bin/env python3
"""
Measure backups over HTTP and HTTPS: several streams at once, and a network with latency.

Two servers: nginx, which costs next to nothing itself, and the emulated stack, which answers as a
stack does but is no fast server. Streams are processes as on a backup host, each with a repository
of its own; they begin at the same moment, and the slowest counts. Servers share the machine and are
not counted. The median of the rounds is printed. nginx needs two modules
(``apt-get install nginx-light libnginx-mod-http-headers-more-filter libnginx-mod-http-echo``);
without nginx its lines are left out. The file is not called after the protocol, because Python has
a module of that name.

    python benchmarks/over_http.py /some/directory --directory /dev/shm
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from emulated import snapshot_url
from processes import await_all, await_word, measured, start, tell
from records import MIB, back_up, create, opened
from sources import FileDisk

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.secret import Secret

NGINX = """
load_module {modules}/ngx_http_headers_more_filter_module.so;
load_module {modules}/ngx_http_echo_module.so;
daemon off; worker_processes 2; pid {root}/pid; error_log {root}/errors;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.pem;
    server {{
        listen 127.0.0.1:{port}{tls};
        more_set_input_headers "Range: $http_x_ms_range";
        location /now/ {{ alias {data}/; }}
        location ~ ^/(?<late>0\\.[0-9]+)/(?<name>[a-z.]+)$ {{
            echo_sleep $late; echo_exec /now/$name;
        }}
    }}
}}
"""
MODULES = Path("/usr/lib/nginx/modules")
LATENCY_MAY_COST = 1.15


class Setting(NamedTuple):
    """One line of a table."""

    server: str
    tls: bool
    streams: int = 1
    latency_ms: int = 0
    readers: int = 0  # 0: as many as a stream has by default
    disk: str = "base"

    def __str__(self) -> str:
        readers = f", {self.readers} in flight" if self.readers else ""
        return (
            f"{self.server:<9}{'TLS' if self.tls else 'plain':<6}{self.latency_ms:>3} ms{readers}"
        )


Serve = Callable[[Setting, argparse.Namespace], AbstractContextManager[tuple[str, str | None]]]
Servers = dict[str, Serve]
Medians = dict[Setting, float]


class Clipped(FileDisk):
    """Page lists of the file, up to so many bytes of data; bytes from somewhere else."""

    def __init__(self, path: Path, read_into: Callable[[int, memoryview], None], most: int) -> None:
        super().__init__(path)
        self.read_into = read_into  # type: ignore[method-assign]
        self._most = most

    def allocated(self, offset: int, length: int) -> list[Extent]:
        """Return what holds data, until it is enough."""
        found = []
        for extent in super().allocated(offset, length):
            kept = min(extent.length, self._most)
            self._most -= kept
            found += [extent._replace(length=kept)] if kept else []
        return found


def stream(asked: dict[str, Any]) -> None:
    """Be one stream: wait for the word, back up, and say what it cost."""
    from airflow_provider_azstack.arm.blobs import BlobDisk  # noqa: PLC0415
    from airflow_provider_azstack.arm.grants import Grant  # noqa: PLC0415
    from airflow_provider_azstack.engine.backup.disk import IN_FLIGHT  # noqa: PLC0415

    path = Path(asked["path"])
    blob = BlobDisk(
        lambda: Grant(Secret(asked["url"]), time.monotonic(), 1e6),
        size_bytes=path.stat().st_size,
        ca_bundle=asked["ca"],
        connections=asked["readers"] or IN_FLIGHT,
    )
    session = opened(Path(asked["repository"])).open_session("benchmark")
    before = ""
    if path.stem != "base":
        before = "before"
        back_up(session, FileDisk(path.with_name("base.img")), before)
    source = Clipped(path, blob.read_into, asked["mib"] * MIB)
    more = {"readers": asked["readers"]} if asked["readers"] else {}
    await_word()
    image, cost = measured(lambda: back_up(session, source, "first", before, **more))
    session.close()
    print(json.dumps({**cost, "mib": image.changed_bytes / MIB, "read": image.read_bytes / MIB}))


def together(setting: Setting, url: str, ca: str | None, args: argparse.Namespace) -> list[Any]:
    """Let the streams of a setting run at once; return what each of them cost."""
    with ExitStack() as stack:
        processes = []
        for _ in range(setting.streams):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.directory)))
            create(directory)
            asked = {
                "url": url,
                "ca": ca,
                "path": str(args.data / f"{setting.disk}.img"),
                "repository": str(directory),
                "mib": args.mib,
                "readers": setting.readers,
            }
            processes.append(stack.enter_context(start(__file__, "--stream", asked)))
        await_all(processes)
        for process in processes:
            tell(process)
        return [json.loads(process.stdout.readline()) for process in processes]


@contextmanager
def nginx(setting: Setting, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Serve the data set from nginx; yield the disk's URL and the CA's file."""
    from airflow_provider_azstack.emulator import pki  # noqa: PLC0415

    port = 18400 + setting.tls
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        root = Path(name)
        root.chmod(0o755)  # its workers are another user
        ca, _ = pki.write_files(root, "good")
        text = NGINX.format(
            modules=MODULES, root=root, port=port, tls=" ssl" * setting.tls, data=args.data
        )
        (root / "nginx.conf").write_text(text)
        command = ["nginx", "-p", name, "-c", str(root / "nginx.conf"), "-e", str(root / "errors")]
        with subprocess.Popen(command) as process:
            try:
                late = f"{setting.latency_ms / 1000:.3f}" if setting.latency_ms else "now"
                scheme = "https" if setting.tls else "http"
                time.sleep(0.5)
                yield f"{scheme}://localhost:{port}/{late}/{setting.disk}.img", str(ca)
            finally:
                process.terminate()


class Emulated:
    """The emulated stack, with and without TLS, each with a snapshot of the disk."""

    def __init__(self, path: Path, root: Path, stack: ExitStack) -> None:
        self._path = path
        self._root = root
        self._stack = stack
        self._running: dict[bool, tuple[Emulator, str]] = {}

    @contextmanager
    def __call__(
        self, setting: Setting, _args: argparse.Namespace
    ) -> Iterator[tuple[str, str | None]]:
        """Serve the snapshot; yield its URL and the CA's file."""
        running, url = self._running.get(setting.tls) or self._start(tls=setting.tls)
        fault = running.faults.slow(".", setting.latency_ms / 1000)
        try:
            yield url, str(running.ca_file)
        finally:
            running.faults.script.remove(fault)

    def _start(self, *, tls: bool) -> tuple[Emulator, str]:
        running = self._stack.enter_context(Emulator(self._root / f"tls-{tls}", tls=tls))
        spec = DiskSpec(size_bytes=self._path.stat().st_size, content=self._path)
        disk = running.add_vm("vm", "benchmark", [spec]).disks[0]
        url = snapshot_url(running, disk)
        self._running[tls] = running, url
        return running, url


def settings(servers: list[str], args: argparse.Namespace) -> Iterator[tuple[str, list[Setting]]]:
    """Yield the tables: what they show, and their lines."""
    kinds = [(server, tls) for server in servers for tls in (False, True)]
    yield (
        "streams at once",
        [Setting(*kind, streams=n) for kind in kinds for n in args.streams],
    )
    yield (
        "latency of every request",
        [Setting(*kind, latency_ms=ms) for kind in kinds for ms in args.latency],
    )
    late = args.latency[-1]
    yield (
        "what ranges in flight do about it",
        [
            Setting(servers[0], tls=True, latency_ms=late, readers=readers)
            for readers in (1, 2, 4, 8, 16)
        ],
    )
    if "nginx" in servers:
        yield (
            "a day of a database: 1% of the pages, scattered",
            [
                Setting("nginx", tls, latency_ms=ms, disk="scattered")
                for tls in (False, True)
                for ms in (0, late)
            ],
        )


def table(title: str, lines: list[Setting], args: argparse.Namespace, serve: Servers) -> Medians:
    """Measure the lines in turn, round by round; print their medians."""
    runs: dict[Setting, list[list[Any]]] = {line: [] for line in lines}
    for _ in range(args.rounds):
        for line in lines:
            with serve[line.server](line, args) as (url, ca):
                runs[line].append(together(line, url, ca, args))
    print(f"\n{title}")
    print(f"{'':<32}{'streams':>8}{'data MiB':>10}{'seconds':>9}{'MiB/s':>8}{'ratio':>7}"
          f"{'CPU-s/GiB':>11}{'read MiB':>10}{'peak MiB':>10}")  # fmt: skip
    medians: Medians = {}
    for line, rounds in runs.items():
        medians[line] = median(max(one["seconds"] for one in streams) for streams in rounds)
        mib = sum(one["mib"] for one in rounds[0])
        cpu = median(sum(one["cpu_seconds"] for one in streams) for streams in rounds)
        first = next(other for other in lines if other[:2] == line[:2])
        speed = mib / medians[line]
        ratio = speed * medians[first] / sum(one["mib"] for one in runs[first][0])
        print(
            f"{line!s:<32}{line.streams:>8}{mib:>10.0f}{medians[line]:>9.2f}{speed:>8.0f}"
            f"{ratio:>7.2f}{cpu * 1024 / mib:>11.2f}{sum(one['read'] for one in rounds[0]):>10.0f}"
            f"{max(one['peak_mib'] for streams in rounds for one in streams):>10.0f}",
            flush=True,
        )
    return medians


def main() -> int:
    """Measure, print, and fail when latency costs too much."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="what make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--mib", type=int, default=1024, help="MiB of data that a stream reads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 5, 30], help="ms")
    parser.add_argument("--servers", nargs="+", default=["nginx", "emulator"])
    parser.add_argument("--stream", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        stream(json.loads(args.stream))
        return 0
    args.data = args.data.resolve()
    servers = [name for name in args.servers if name != "nginx" or shutil.which("nginx")]
    found: Medians = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.directory)))
        serve: Servers = {
            "nginx": nginx,
            "emulator": Emulated(args.data / "base.img", root, stack),
        }
        for title, lines in settings(servers, args):
            found |= table(title, lines, args, serve)
    holds = True
    for server in servers:
        quick, late = (found.get(Setting(server, tls=True, latency_ms=ms)) for ms in (0, 30))
        if quick and late:
            holds &= late < LATENCY_MAY_COST * quick
            print(f"{server}: 30 ms over TLS cost {100 * (late / quick - 1):.0f}%")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
