#!/usr/bin/env python3
"""
Measure what it costs to write a disk of a restore point into a file, and hold it to the bars.

The data set is ``make_dataset.py``'s; it is backed up first, once as it is and once as the start of
a disk of 1 TiB. Each export is a process of its own; its CPU time and its peak memory include
opening the repository with a passphrase at full cost. Let ``--directory`` be in memory, or it is
the disk that is measured.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from processes import answer, measured, missed
from records import MIB, back_up, create, image_name, opened
from sources import FileDisk

from airflow_provider_azstack.engine.export.disk import DiskExport, Exported
from airflow_provider_azstack.repo.images.reader import ImageReader

TIB = 1024**4

DISKS = {"as it is": 0, "1 TiB": TIB}


def run_of(disk: str) -> str:
    """Return the run that backs a disk up."""
    return disk.replace(" ", "-").lower()


def fill(options: argparse.Namespace) -> None:
    """Back the data set up, at each size."""
    repository = opened(options.repository)
    with closing(repository), closing(repository.open_session("benchmark")) as session:
        for disk, size in DISKS.items():
            source = FileDisk(options.data / "base.img")
            source.size_bytes = size or source.size_bytes
            back_up(session, source, run_of(disk))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Export one disk in this process, and return what it cost."""
    repository = opened(options.repository)
    image = repository.image(image_name(run_of(options.disk)))

    def work() -> Exported:
        export = DiskExport(image, ImageReader(image, repository.reader()), "raw")
        return export.to_file(options.repository.parent / "exported.img")

    exported, cost = measured(work)
    return {**cost, "data": exported.data_bytes}


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """Lend a repository with the backups."""
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="export-") as name:
        repository = Path(name) / "repository"
        repository.mkdir()
        create(repository)
        answer(__file__, options.data, "--repository", repository, "--back-up")
        yield repository


def report(results: dict[str, dict[str, Any]]) -> bool:
    """Print the table, and tell whether all bars hold."""
    print(f"{'disk':<10}{'data MiB':>10}{'seconds':>9}{'MiB/s':>7}{'CPU s':>7}{'CPU-s/GiB':>11}"
          f"{'peak MiB':>10}")  # fmt: skip
    for disk, r in results.items():
        data = r["data"] / MIB
        print(
            f"{disk:<10}{data:>10.0f}{r['seconds']:>9.2f}{data / r['seconds']:>7.0f}"
            f"{r['cpu_seconds']:>7.2f}{r['cpu_seconds'] / data * 1024:>11.2f}{r['peak_mib']:>10.0f}"
        )
    one, large = results.values()
    bars = {
        ">= 500 MiB/s": one["data"] / MIB / one["seconds"] >= 500,
        "<= 4 CPU-s/GiB": one["cpu_seconds"] <= 4 * one["data"] / 1024**3,
        "peak memory < 300 MiB": max(r["peak_mib"] for r in results.values()) < 300,
        "1 TiB costs what its data cost": large["cpu_seconds"] < 1.25 * one["cpu_seconds"],
    }
    holds = not missed(bars)
    print(f"  load of the machine: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return holds


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, default="/dev/shm")  # noqa: S108 - memory
    parser.add_argument("--tries", type=int, default=3, help="the median is shown")
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--disk", help=argparse.SUPPRESS)
    parser.add_argument("--back-up", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.back_up:
        fill(options)
        return 0
    if options.disk:
        print(json.dumps(measure(options)))
        return 0
    results = {}
    with workplace(options) as repository:
        for disk in DISKS:
            tries = []
            for _ in range(options.tries):
                where = ("--repository", repository, "--disk", disk)
                tries.append(answer(__file__, options.data, *where))
                (repository.parent / "exported.img").unlink()
            results[disk] = sorted(tries, key=lambda r: r["seconds"])[len(tries) // 2]
    return 0 if report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
