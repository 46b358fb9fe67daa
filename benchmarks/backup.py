#!/usr/bin/env python3
"""
Measure the backup of a disk into a local encrypted repository, and hold it to the bars.

Every measurement is a process of its own, so that its CPU time and its peak memory are honest;
both include opening the repository with a passphrase at full cost. ``make_dataset.py`` makes the
disks. The server of the HTTP source is another process, and not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import answer, environment, measured, missed
from records import MIB, back_up, create, opened
from sources import FileDisk, HttpDisk

TIB = 1024**4
STEPS = (
    # name, disk, based on
    ("first", "base", ""),
    ("unchanged", "base", "first"),
    ("everything", "base", "first"),
    ("scattered", "scattered", "first"),
    ("clustered", "clustered", "first"),
    ("again", "base", ""),  # another disk of the same content,
    ("terabyte", "base", ""),  # and one on which it is the first of 1 TiB
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Back up one disk in this process, and return what it cost."""
    path = options.data / f"{options.disk}.img"
    url = f"http://127.0.0.1:{options.port}/"
    disk = HttpDisk(path, url, options.readers) if options.port else FileDisk(path)
    if options.step == "unchanged":
        disk._changes = []  # noqa: SLF001 - a reference that says "nothing"
    if options.step == "terabyte":
        disk.size_bytes = TIB
    session = opened(options.repository).open_session("benchmark")
    how = {
        "trust": "everything" if options.step == "everything" else "difference",
        "readers": options.readers,
    }
    image, cost = measured(lambda: back_up(session, disk, options.step, options.based_on, **how))
    session.close()
    return {
        **cost,
        "known": image.changes_known,
        "changed": image.changed_bytes,
        "read": image.read_bytes,
        "stored": image.stored_bytes,
    }


@contextmanager
def server(image: Path) -> Iterator[int]:
    """Serve an image's ranges from another process, and yield the port."""
    script = Path(__file__).with_name("range_server.py")
    command = [sys.executable, str(script), str(image)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def stored_bytes(directory: Path) -> int:
    """Return the size of everything in the repository, metadata included."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run_steps(options: argparse.Namespace, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure every step from one kind of source into a fresh repository."""
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="backup-") as name:
        directory = Path(name)
        create(directory)
        for step, disk, based_on in STEPS:
            before = stored_bytes(directory)
            what = ("--step", step, "--disk", disk, "--based-on", based_on)
            what += ("--repository", name, "--readers", options.readers)
            with server(options.data / f"{disk}.img") as port:
                what += ("--port", port if source == "http" else 0)
                result = answer(__file__, options.data, *what)
            yield step, {**result, "grown": stored_bytes(directory) - before}


def report(source: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """Print one source's table, and return the bars that do not hold."""
    print(
        f"\n{source:<11}{'known':>11}{'data MiB':>10}{'seconds':>9}{'MiB/s':>7}"
        f"{'CPU s':>7}{'CPU-s/GiB':>11}{'read MiB':>10}"
        f"{'grown MiB':>11}{'ratio':>7}{'peak MiB':>10}"
    )
    for step, r in results.items():
        data = r["changed"] / MIB
        print(
            f"{step:<11}{r['known']:>11}{data:>10.1f}{r['seconds']:>9.2f}"
            f"{data / r['seconds']:>7.0f}{r['cpu_seconds']:>7.2f}"
            f"{r['cpu_seconds'] / max(data, 1) * 1024:>11.2f}{r['read'] / MIB:>10.1f}"
            f"{r['grown'] / MIB:>11.2f}{r['grown'] / max(r['changed'], 1):>7.2f}"
            f"{r['peak_mib']:>10.0f}"
        )
    first, scattered = results["first"], results["scattered"]
    bars = {
        "first backup >= 400 MiB/s": first["changed"] / MIB / first["seconds"] >= 400,
        "first backup <= 6 CPU-s/GiB": first["cpu_seconds"] <= 6 * first["changed"] / 1024**3,
        "peak memory < 300 MiB": max(r["peak_mib"] for r in results.values()) < 300,
        "scattered stores <= 1.2x": scattered["grown"] <= 1.2 * scattered["changed"],
        "1 TiB costs what its data cost": results["terabyte"]["cpu_seconds"]
        < 1.25 * results["again"]["cpu_seconds"],
        "scattered < half the time": scattered["seconds"] < first["seconds"] / 2,
    }
    return [f"{source}: {bar}" for bar in missed(bars)]


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--readers", type=int, default=8)
    for name in ("step", "disk", "based-on"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options)))
        return 0
    reports = [report(source, dict(run_steps(options, source))) for source in ("file", "http")]
    return 1 if any(reports) else 0


if __name__ == "__main__":
    sys.exit(main())
