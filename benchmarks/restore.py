"""
What a restore costs: a VM is backed up from the emulated stack, and restored by another process.

Says MiB of data a second, CPU-seconds per GiB and peak memory of the restoring process, which
reads, decrypts, decompresses and writes pages over plain HTTP; the emulator shares the machine.

    python benchmarks/restore.py --mib 1024 --size-gib 1000
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emulated import answer, connect, opened, reach, run
from processes import measured

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.emulator import DiskSpec, EmulatedDisk, Emulator
from airflow_provider_azstack.engine.backup.complete import complete
from airflow_provider_azstack.engine.backup.discover import discover
from airflow_provider_azstack.engine.backup.distribute import distribute
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.engine.restore.execute import carry_out
from airflow_provider_azstack.engine.restore.plan import plan_restore
from airflow_provider_azstack.engine.restore.request import read_request
from airflow_provider_azstack.model import Job
from airflow_provider_azstack.policy import Policy
from airflow_provider_azstack.repo.repository import Repository

MIB = 1 << 20
REQUEST = {"vms": ["vm"], "mode": "alternate", "resource_group": "target"}


def main() -> None:
    """Back up, then measure a child that restores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="MiB of data on the disk")
    parser.add_argument("--size-gib", type=int, default=64, help="GiB of the disk itself")
    run(parser, measure, restore)


def measure(directory: Path, args: argparse.Namespace) -> None:
    """Prepare a stack and a repository, and let a child restore."""
    with Emulator(directory / "stack", tls=False) as emulator:
        disk = emulator.add_vm("vm", "source", [DiskSpec(size_bytes=args.size_gib << 30)]).disks[0]
        fill(disk, args.mib)
        emulator.add_group("target")
        repository, facts = reach(emulator, directory)
        with connect(facts) as stack:
            back_up(stack, repository)
        cost = answer(__file__, facts)
    print(
        f"planned in {cost['planned']:.2f} s; {args.mib} MiB restored in {cost['seconds']:.2f} s: "
        f"{args.mib / cost['seconds']:.0f} MiB/s, "
        f"{cost['cpu_seconds'] * 1024 / args.mib:.2f} CPU-s/GiB, peak {cost['peak_mib']:.0f} MiB"
    )


def fill(disk: EmulatedDisk, mib: int) -> None:
    """Write data that compresses like files do, spread over the disk."""
    step = disk.size_bytes // mib // MIB * MIB
    for number in range(mib):
        disk.write(number * step, os.urandom(400 << 10) + b"text" * (156 << 10))


def back_up(stack: Stack, repository: Repository) -> None:
    """Publish a restore point of everything."""
    session = repository.open_session("benchmark")
    job = Job(run="benchmark", session=session.id, policy="all", stack=stack.name)
    host = BackupHost(name="here", streams=1, queue="here", executor=None)
    inventory = discover(stack, Policy(name="all"), None)
    manifests = distribute(job, inventory.vms, (host,))
    for workload in manifests[0].workloads:
        stream_workload(stack, session, workload)
    complete(session, job, manifests, inventory.unprotected, started_at=datetime.now(UTC))
    session.close()


def restore(facts: dict[str, Any]) -> None:
    """Restore, and say what it took."""
    repository = opened(facts)
    with connect(facts) as stack:
        began = time.monotonic()
        plan = plan_restore(stack, repository, read_request(REQUEST))
        planned = time.monotonic() - began
        session = repository.open_session("restore")
        (outcome,), cost = measured(lambda: carry_out(stack, session, plan, lambda _: None))
        session.close()
    if outcome.status != "done":
        sys.exit(outcome.reason)
    print(json.dumps({"planned": planned, **cost}))


if __name__ == "__main__":
    main()
