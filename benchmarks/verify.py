#!/usr/bin/env python3
"""
Measure verification, and hold it to the bars.

A full one reads the backup of ``make_dataset.py``'s first disk; a structure check looks at a
repository of a million small blocks. Each is a process of its own; its CPU time and its peak memory
include opening the repository with a passphrase at full cost. Let ``--directory`` be in memory, or
it is the disk that is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backup import MIB, PASSPHRASE, create, environment, peak_mib

FULL_MIB_PER_SECOND = 600
STRUCTURE_SECONDS = 60
STRUCTURE_MIB = 1024


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Verify one repository in this process, and return what it cost."""
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415
    from airflow_provider_azstack.repo.verify import verify  # noqa: PLC0415
    from airflow_provider_azstack.secret import Secret  # noqa: PLC0415
    from airflow_provider_azstack.store.local import LocalStore  # noqa: PLC0415

    repository = Repository.open(
        LocalStore(options.repository), Secret(PASSPHRASE), cache_directory=options.cache
    )
    started, cpu = time.perf_counter(), time.process_time()
    report = verify(repository, options.mode, threads=options.threads, progress=lambda _: None)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if not report.is_sound:
        raise SystemExit(report.summary())
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak_mib(),
        "stored_mib": report.pack_bytes / MIB,
        "packs": report.packs,
        "groups": report.groups,
    }


def in_a_process(mode: str, repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own, and print a line."""
    command = [sys.executable, __file__, "--mode", mode, "--repository", str(repository)]
    command += ["--threads", str(options.threads)]
    command += ["--cache", str(options.cache)] if options.cache else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{mode:<10}{found['packs']:>7} packs{found['stored_mib']:>9.0f} MiB"
        f"{found['groups']:>7} groups{found['seconds']:>8.2f} s"
        f"{found['cpu_seconds']:>8.2f} CPU-s{found['peak_mib']:>7.0f} MiB peak"
    )
    return found


def full(data: Path, directory: Path, options: argparse.Namespace) -> dict[str, bool]:
    """Back a disk up, read all of it three times, and return whether the best keeps the bar."""
    create(directory)
    script = Path(__file__).with_name("backup.py")
    command = [sys.executable, str(script), str(data), "--step", "first", "--disk", "base"]
    command += ["--repository", str(directory), "--readers", "8", "--based-on", ""]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
    runs = [in_a_process("full", directory, options) for _ in range(3)]
    best = max(run["stored_mib"] / run["seconds"] for run in runs)
    print(f"           {best:.0f} MiB of stored data a second")
    return {f"full >= {FULL_MIB_PER_SECOND} MiB/s": best >= FULL_MIB_PER_SECOND}


def structure(directory: Path, options: argparse.Namespace) -> dict[str, bool]:
    """Make a repository of many blocks, look at its structure, and return whether bars hold."""
    create(directory)
    script = Path(__file__).with_name("million.py")
    command = [sys.executable, str(script), str(directory), str(options.blocks)]
    subprocess.run(command, check=True, env=environment())
    found = in_a_process("structure", directory, options)
    return {
        f"structure of {options.blocks} blocks < {STRUCTURE_SECONDS} s": found["seconds"]
        < STRUCTURE_SECONDS,
        f"structure < {STRUCTURE_MIB} MiB": found["peak_mib"] < STRUCTURE_MIB,
    }


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--cache", type=Path, help="keeps the index between runs")
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(measure(options)))
        return 0
    bars: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="verify-") as name:
        if options.data:
            bars |= full(options.data, Path(name), options)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="verify-") as name:
        bars |= structure(Path(name), options)
    for bar, holds in bars.items():
        print(f"  {'holds ' if holds else 'MISSED'}  {bar}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
