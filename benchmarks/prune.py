#!/usr/bin/env python3
"""
Measure a collection of a repository of a million small blocks, and hold it to the bars.

The blocks that its restore point needs are ``million.py``'s; a run that died stored a tenth as many
again. A dry run and a prune are processes of their own; CPU time and peak memory include opening
the repository with a passphrase at full cost. Let ``--directory`` be in memory, or it is the disk
that is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backup import PASSPHRASE, create, environment, peak_mib

PRUNE_SECONDS = 60
PRUNE_MIB = 1024
LITTER_BYTES = 64


def opened(options: argparse.Namespace) -> Any:
    """Open the repository that is measured."""
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415
    from airflow_provider_azstack.secret import Secret  # noqa: PLC0415
    from airflow_provider_azstack.store.local import LocalStore  # noqa: PLC0415

    return Repository.open(
        LocalStore(options.repository), Secret(PASSPHRASE), cache_directory=options.cache
    )


def litter(options: argparse.Namespace) -> dict[str, Any]:
    """Store blocks that no restore point will have."""
    session = opened(options).open_session("benchmark", run="died")
    with session.writer() as writer:
        for _ in range(options.blocks // 10):
            writer.add(os.urandom(LITTER_BYTES))
        writer.flush()
    session.close()
    return {}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Collect in this process, and return what it cost."""
    from airflow_provider_azstack.repo.prune import prune  # noqa: PLC0415

    repository = opened(options)
    started, cpu = time.perf_counter(), time.process_time()
    report = prune(repository, dry_run=options.step == "foresee")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "packs": report.packs,
        "actions": {row.action: len(report.of(row.action)) for row in report.rows},
        "freed_bytes": report.freed_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak_mib(),
    }


def in_a_process(step: str, repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do one step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--repository", str(repository)]
    command += ["--blocks", str(options.blocks)]
    command += ["--cache", str(options.cache)] if options.cache else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the repository is made and deleted")
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--cache", type=Path, help="keeps the index between runs")
    parser.add_argument("--step", choices=("litter", "foresee", "prune"), help=argparse.SUPPRESS)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(litter(options) if options.step == "litter" else measure(options)))
        return 0
    bars = {}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="prune-") as name:
        directory = Path(name)
        create(directory)
        script = Path(__file__).with_name("million.py")
        command = [sys.executable, str(script), str(directory), str(options.blocks)]
        subprocess.run(command, check=True, env=environment())
        in_a_process("litter", directory, options)
        for step in ("foresee", "prune"):
            found = in_a_process(step, directory, options)
            print(
                f"{step:<8}{found['packs']:>7} packs  {found['seconds']:>7.2f} s"
                f"{found['cpu_seconds']:>8.2f} CPU-s{found['peak_mib']:>7.0f} MiB peak  "
                f"{found['freed_bytes']:,} bytes freed  {found['actions']}"
            )
        bars[f"prune of {options.blocks} blocks < {PRUNE_SECONDS} s"] = (
            found["seconds"] < PRUNE_SECONDS
        )
        bars[f"prune < {PRUNE_MIB} MiB"] = found["peak_mib"] < PRUNE_MIB
    for bar, holds in bars.items():
        print(f"  {'holds ' if holds else 'MISSED'}  {bar}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
