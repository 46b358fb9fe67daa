"""
How far the forecast of a job is off: real jobs of one, two and more hosts against the emulator.

Each host is a process of its own with its own limit; its streams drain its workloads in order, as a
pool does. The first job, whose forecast knows only the sizes of disks, is there to be measured; the
forecast of each later one comes from what the jobs before recorded. Beside it stands what a
simulation of just that number of hosts said right after the first job.

    python benchmarks/simulation.py --vms 24 --mb 240 --limit 8
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import emulated
from emulated import connect, opened, reach
from processes import await_all, await_word, tell

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.backup import fleets, outlook, scenarios
from airflow_provider_azstack.engine.backup.clean_up import clean_up
from airflow_provider_azstack.engine.backup.complete import complete
from airflow_provider_azstack.engine.backup.discover import discover
from airflow_provider_azstack.engine.backup.forecast import Costs
from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.engine.pace import Pace, host_limits
from airflow_provider_azstack.model import Job, JobRecord, Manifest, from_json, to_json
from airflow_provider_azstack.policy import Policy
from airflow_provider_azstack.repo.repository import Repository

MB = 1_000_000
POLICY = Policy(name="all")
# No scheduler is in between, the emulator's snapshots are there at once, and hosts' processes are
# up before a job begins.
COSTS = Costs(vm=0.1, workload=0.0, run=0.0)


def no_sleep(_: float) -> None:
    """Sleep no time: the emulator's operations end when they are looked at."""


def main() -> None:
    """Run a job for each number of hosts, and print how far its forecast was off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=24)
    parser.add_argument("--mb", type=int, default=240, help="MB of data on all of them")
    parser.add_argument("--hosts", default="1,1,2,3,4", help="of each job in turn")
    parser.add_argument("--streams", type=int, default=2, help="of each host")
    parser.add_argument("--limit", type=int, default=8, help="MB a second of each host")
    parser.add_argument("--seed", type=int, default=1)
    emulated.run(parser, measure, host)


def measure(directory: Path, args: argparse.Namespace) -> None:
    """Make a fleet, back it up again and again, and compare."""
    with Emulator(directory / "stack", tls=False) as emulator:
        fill(emulator, args)
        repository, facts = reach(emulator, directory)
        facts["directory"] = str(directory)
        with connect(facts, sleep=no_sleep) as stack:
            report(list(jobs(stack, repository, facts, args)), args)


def jobs(
    stack: Stack, repository: Repository, facts: dict[str, Any], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Run the jobs, and yield for each what was expected and what came."""
    simulated: dict[int, float] = {}
    counts = [int(count) for count in args.hosts.split(",")]
    for number, count in enumerate(counts):
        hosts = backup_hosts(count, args)
        record = job(stack, repository, f"job-{number}", hosts, facts)
        *_, whole = outlook.estimate_rows(record)
        yield {
            "hosts": count,
            "moved": whole["moved_bytes"],
            "seconds": whole["end_seconds"],
            "forecast": whole["expected_end_seconds"] if number else None,
            "simulated": simulated.get(count),
        }
        if not number:
            past = Past(repository.job_outlines())
            simulated = simulate(fleets.recorded(record, past), counts, args)


def simulate(
    scene: fleets.Scene, counts: Sequence[int], args: argparse.Namespace
) -> dict[int, float]:
    """Return what a simulation says of each number of hosts."""
    job = Job(run="s", session="s", policy="all", stack="s", mode="full")
    wanted = sorted(set(counts))
    rows = scenarios.compare(
        scene,
        backup_hosts(1, args),
        [count - 1 for count in wanted],
        Terms(POLICY),
        job,
        now=datetime.now(UTC),
        costs=COSTS,
    )
    return {count: row["seconds"] for count, row in zip(wanted, rows, strict=True)}


def backup_hosts(count: int, args: argparse.Namespace) -> tuple[BackupHost, ...]:
    """Return so many hosts, all alike."""
    return tuple(
        BackupHost(
            name=f"host-{n + 1}",
            streams=args.streams,
            queue="q",
            executor=None,
            limit_mb_per_second=args.limit,
        )
        for n in range(count)
    )


def fill(emulator: Emulator, args: argparse.Namespace) -> None:
    """Make VMs that are unlike, with so much data on all of them together."""
    rng = random.Random(args.seed)
    shares = [rng.lognormvariate(0, 0.8) for _ in range(args.vms)]
    emulator.add_group("snapshots")
    for number, share in enumerate(shares):
        size = int(args.mb * MB * share / sum(shares)) & ~4095
        disk = DiskSpec(size_bytes=max(1 << 20, (size | (1 << 20) - 1) + 1))
        emulator.add_vm(f"vm-{number}", "source", [disk]).disks[0].write(0, os.urandom(size))


def job(
    stack: Stack,
    repository: Repository,
    run: str,
    hosts: tuple[BackupHost, ...],
    facts: dict[str, Any],
) -> JobRecord:
    """Run one compound job, each host in a process of its own."""
    children = [child_of(host, facts) for host in hosts]
    session = repository.open_session("benchmark", run=run)
    this = Job(run=run, session=session.id, policy="all", stack=stack.name, mode="full")
    vms = discover(stack, POLICY, None).vms
    past = Past(repository.job_outlines())
    await_all(children)
    started_at = datetime.now(UTC)
    manifests = prepare(this, vms, hosts, Terms(POLICY), past, now=started_at, costs=COSTS)
    for child, manifest in zip(children, manifests, strict=True):
        tell(child, to_json(manifest).decode())
    if any(child.wait() for child in children):
        sys.exit("a host failed")
    record = complete(session, this, manifests, started_at=started_at)
    clean_up(stack, repository, run=run, session_id=session.id, manifests=manifests)
    if record.status != "done":
        sys.exit(f"{run} is {record.status}")
    return record


def child_of(host: BackupHost, facts: dict[str, Any]) -> "subprocess.Popen[str]":
    """Start a host's process."""
    told = {**facts, "host": host.name, "streams": host.streams, "limit": host.limit_bytes}
    return emulated.start(__file__, told)


def host(facts: dict[str, Any]) -> None:
    """Be a host: its streams take its workloads in order."""
    directory = Path(facts["directory"])
    limits = host_limits(facts["host"], facts["limit"])
    with connect(facts, sleep=no_sleep) as stack:
        next(iter(stack.subscriptions()), None)
        repository = opened(facts)
        manifest = from_json(Manifest, await_word().encode(), "manifest")
        queue = list(reversed(manifest.workloads))

        def stream() -> None:
            session = repository.join_session(manifest.job.session)
            pace = Pace(limits, directory=directory / "pace")
            while queue:
                stream_workload(stack, session, queue.pop(), pace=pace)

        threads = [threading.Thread(target=stream) for _ in range(facts["streams"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def report(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the table, and the median error."""
    print(f"{args.vms} VMs, {args.streams} streams and {args.limit} MB/s a host")
    print("| hosts | MB moved | seconds | forecast | off | simulated after the first job | off |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [str(row["hosts"]), f"{row['moved'] / MB:.0f}", f"{row['seconds']:.1f}"]
        for key in ("forecast", "simulated"):
            told = row[key]
            cells += [
                "-" if told is None else f"{told:.1f}",
                outlook.off(row["seconds"], told or 0),
            ]
        print(f"| {' | '.join(cells)} |")
    for key in ("forecast", "simulated"):
        errors = [abs(row["seconds"] / row[key] - 1) for row in rows if row[key]]
        print(f"{key}: median error {statistics.median(errors):.1%}, worst {max(errors):.1%}")


if __name__ == "__main__":
    main()
