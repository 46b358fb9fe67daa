"""
One disk restored by one host, and by several at once, each of which keeps to the same rate.

Each host is a process of its own. The rate stands for what holds a host back: its network, or one
core; the emulator shares the machine, so a rate near the machine's own limit shows that instead.
Says seconds of writing (medians), the gain over one host, and what ending the disk took after that.

    python benchmarks/restore_hosts.py --mib 512 --mb-per-second 32 --hosts 1 2 --rounds 3
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emulated import connect, opened, reach, run, start
from processes import await_all, await_word, tell
from restore import MIB, back_up, fill

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.pace import Limit, Pace
from airflow_provider_azstack.engine.restore import share
from airflow_provider_azstack.engine.restore.plan import plan_restore
from airflow_provider_azstack.engine.restore.prepare import Splitting
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.request import read_request
from airflow_provider_azstack.repo.sessions import Session

SIZE_GIB = 4  # 16 regions


def main() -> None:
    """Back up, then restore with each number of hosts in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="MiB of data on the disk")
    parser.add_argument("--mb-per-second", type=float, default=32.0, help="of each host")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    run(parser, measure, work)


def measure(directory: Path, args: argparse.Namespace) -> None:
    """Prepare a stack and a repository, and restore again and again, the numbers interleaved."""
    taken: dict[int, list[tuple[float, float]]] = {count: [] for count in args.hosts}
    with Emulator(directory / "stack", tls=False) as emulator:
        disk = emulator.add_vm("vm", "source", [DiskSpec(size_bytes=SIZE_GIB << 30)]).disks[0]
        fill(disk, args.mib)
        emulator.add_storage_account("staging", "source")
        repository, facts = reach(emulator, directory)
        facts["pace"] = str(directory / "pace")
        facts["bytes_per_second"] = args.mb_per_second * 1e6
        with connect(facts) as stack:
            back_up(stack, repository)
        for number in range(args.rounds):
            for count in args.hosts:
                group = f"target-{number}-{count}"
                emulator.add_group(group)
                taken[count].append(restored(facts, group, count))
    show(args, taken)


def restored(facts: dict[str, Any], group: str, count: int) -> tuple[float, float]:
    """Restore with so many hosts; return the seconds of writing, and of ending the disk."""
    repository = opened(facts)
    request = {
        "vms": ["vm"],
        "mode": "alternate",
        "resource_group": group,
        "storage_account": "staging",
    }
    with connect(facts) as stack:
        plan = plan_restore(stack, repository, read_request(request))
        session = repository.open_session("restore", run=group)
        streams = {f"host-{n}": 1 for n in range(count)}
        with share.at_work(stack, session, plan, tell=lambda _: None) as prepared:
            least = MIB if count > 1 else 1 << 50
            found = share.prepare(prepared, Splitting(streams, least, shared_uploads=False))
        writing = run_hosts(facts, session, plan, found["disks"])
        began = time.monotonic()
        with share.at_work(stack, session, plan, tell=lambda _: None) as end:
            share.finish(end, found["split"])
        ending = time.monotonic() - began
        session.close()
    repository.close()
    return writing, ending


def run_hosts(
    facts: dict[str, Any], session: Session, plan: RestorePlan, tasks: dict[str, Any]
) -> float:
    """Let each host be a process; return the seconds from a common start to the last one's end."""
    name = share.keep(session, plan, session.id)
    with ExitStack() as hosts:
        at_work = []
        for host, work in tasks.items():
            order = {**facts, "session": session.id, "plan": name, "host": host, "tasks": work}
            at_work.append(hosts.enter_context(start(__file__, order)))
        await_all(at_work)
        began = time.monotonic()
        for process in at_work:
            tell(process)
        statuses = [process.wait() for process in at_work]
        seconds = time.monotonic() - began
    if any(statuses):
        sys.exit("a host failed")
    return seconds


def work(facts: dict[str, Any]) -> None:
    """Be a host: get ready, wait for the word, write what it was told to."""
    repository = opened(facts)
    session = repository.join_session(facts["session"])
    plan = share.kept(repository, facts["plan"])
    limit = Limit(facts["host"], facts["bytes_per_second"])
    pace = Pace([limit], directory=Path(facts["pace"]))
    with (
        connect(facts) as stack,
        share.at_work(
            stack, session, plan, tell=lambda _: None, host=facts["host"], pace=pace
        ) as restore,
    ):
        await_word()
        for task in facts["tasks"]:
            share.write(restore, task)


def show(args: argparse.Namespace, taken: dict[int, list[tuple[float, float]]]) -> None:
    """Print a line for each number of hosts."""
    print(
        f"{args.mib} MiB of data, {args.mb_per_second:g} MB/s for each host, {args.rounds} rounds"
    )
    first = statistics.median(writing for writing, _ in taken[args.hosts[0]])
    for count, times in taken.items():
        writing, ending = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{count} hosts: {writing:6.2f} s, {args.mib / writing:6.0f} MiB/s, "
            f"{first / writing:4.2f} times; ending the disk {ending:.2f} s"
        )


if __name__ == "__main__":
    main()
