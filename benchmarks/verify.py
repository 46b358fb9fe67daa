#!/usr/bin/env python3
"""
Measure a full verification, and hold it to the bar.

It reads the backup of ``make_dataset.py``'s first disk, each time in a process of its own; its CPU
time and its peak memory include opening the repository with a passphrase at full cost. Let
``--directory`` be in memory, or it is the disk that is measured. ``blocks.py`` measures what costs
by the block.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from processes import answer, measured, missed
from records import MIB, create, opened

from airflow_provider_azstack.repo.verify.verification import verify

FULL_MIB_PER_SECOND = 600


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Verify one repository in this process, and return what it cost."""
    repository = opened(options.repository)
    report, cost = measured(
        lambda: verify(repository, "full", threads=options.threads, progress=lambda _: None)
    )
    if not report.is_sound:
        raise SystemExit(report.summary())
    return {
        **cost,
        "stored_mib": report.pack_bytes / MIB,
        "packs": report.packs,
        "groups": report.groups,
    }


def in_a_process(repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own, and print a line."""
    what = ("--repository", repository, "--threads", options.threads)
    found = answer(__file__, options.data, *what)
    print(
        f"{found['packs']:>7} packs{found['stored_mib']:>9.0f} MiB"
        f"{found['groups']:>7} groups{found['seconds']:>8.2f} s"
        f"{found['cpu_seconds']:>8.2f} CPU-s{found['peak_mib']:>7.0f} MiB peak"
    )
    return found


def best_of_three(directory: Path, options: argparse.Namespace) -> float:
    """Back a disk up, read all of it three times, and return the best MiB a second."""
    create(directory)
    what = ("--step", "first", "--disk", "base", "--repository", directory)
    answer(Path(__file__).with_name("backup.py"), options.data, *what)
    runs = [in_a_process(directory, options) for _ in range(3)]
    return max(float(run["stored_mib"] / run["seconds"]) for run in runs)


def main() -> int:
    """Measure, print, and fail when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repository:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="verify-") as name:
        best = best_of_three(Path(name), options)
    bar = f"{best:.0f} >= {FULL_MIB_PER_SECOND} MiB/s"
    return 1 if missed({bar: best >= FULL_MIB_PER_SECOND}) else 0


if __name__ == "__main__":
    sys.exit(main())
