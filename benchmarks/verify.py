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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backup import MIB, PASSPHRASE, create, environment, peak_mib

FULL_MIB_PER_SECOND = 600


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Verify one repository in this process, and return what it cost."""
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415
    from airflow_provider_azstack.repo.verify.verification import verify  # noqa: PLC0415
    from airflow_provider_azstack.secret import Secret  # noqa: PLC0415
    from airflow_provider_azstack.store.local import LocalStore  # noqa: PLC0415

    repository = Repository.open(LocalStore(options.repository), Secret(PASSPHRASE))
    started, cpu = time.perf_counter(), time.process_time()
    report = verify(repository, "full", threads=options.threads, progress=lambda _: None)
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


def in_a_process(repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own, and print a line."""
    command = [sys.executable, __file__, str(options.data), "--repository", str(repository)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{found['packs']:>7} packs{found['stored_mib']:>9.0f} MiB"
        f"{found['groups']:>7} groups{found['seconds']:>8.2f} s"
        f"{found['cpu_seconds']:>8.2f} CPU-s{found['peak_mib']:>7.0f} MiB peak"
    )
    return found


def best_of_three(directory: Path, options: argparse.Namespace) -> float:
    """Back a disk up, read all of it three times, and return the best MiB a second."""
    create(directory)
    script = Path(__file__).with_name("backup.py")
    command = [sys.executable, str(script), str(options.data), "--step", "first", "--disk", "base"]
    command += ["--repository", str(directory), "--readers", "8", "--based-on", ""]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
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
    holds = best >= FULL_MIB_PER_SECOND
    print(f"  {'holds ' if holds else 'MISSED'}  {best:.0f} >= {FULL_MIB_PER_SECOND} MiB/s")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
