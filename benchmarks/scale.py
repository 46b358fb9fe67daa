#!/usr/bin/env python3
"""
What a job of ten thousand VMs costs beside moving bytes, held to bars: ``scale.py``.

Discovery, distribution and completion of 1,000 and of 10,000 VMs with three disks each, and what
each VM more costs. Inventories are generated: discovery gets its lists as the JSON of pages, so
that its own work is measured and no network's; distribution looks back at 30 jobs; completion finds
sets, images and restore points of the day before in a real repository, two changed regions in each
disk. Every measurement is a process of its own. Let ``--directory`` be in memory, or it is the disk
that is measured.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from processes import answer, peak_mib
from records import create, opened
from scale_fleet import DISKS_GIB, GIB, STACK, Lists, machines

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup.complete import complete
from airflow_provider_azstack.engine.backup.discover import discover
from airflow_provider_azstack.engine.backup.manifests import spill
from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.model import (
    DiskSnapshot,
    Image,
    Job,
    JobRecord,
    JobVm,
    Manifest,
    PointImage,
    RestorePoint,
    SnapshotSet,
    VirtualMachine,
    from_json,
    to_json,
)
from airflow_provider_azstack.policy import Policy
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.images.runs import REGION_BYTES, Run, store_runs
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.sessions import Session

VMS = (1_000, 10_000)
PAST_JOBS = 30
FILLED = 0.6  # of the regions hold data
GROUPS = 200  # that changed regions are drawn from, with blocks of their own
BLOCKS_OF_GROUP = 256
CHANGED_BLOCKS = 8  # of a region's that changed
BLOCK_BYTES = 64  # the index counts blocks, not bytes
STARTED = datetime(2026, 1, 2, 22, tzinfo=UTC)
POLICY = Policy(name="nightly")
HOSTS = tuple(
    BackupHost(name=f"host{n}", streams=8, queue=f"host{n}", executor=None) for n in range(6)
)
BARS = {"discovery": 30.0, "distribution": 5.0, "completion": 60.0}
FLAT = 1.5  # times what a VM of a small job costs


class Paths(NamedTuple):
    """What the processes share."""

    repository: Path
    job: Path


# Discovery.


def measure_discovery(count: int, _: Paths) -> dict[str, Any]:
    """Lists into an inventory."""
    stack = Lists(count)

    def work() -> int:
        inventory = discover(stack, POLICY)
        require(not inventory.unprotected, "all can be backed up")
        return sum(len(vm.disks) for vm in inventory.vms)

    return _measured(work)


# Distribution.


def put_past(session: Session, vms: list[VirtualMachine]) -> None:
    """Put the records of the jobs of a month."""
    rng = Random(1)
    for day in range(PAST_JOBS):
        started = STARTED - timedelta(days=PAST_JOBS - day)
        job = Job(run=f"past-{day}", session="s", policy="nightly", stack=STACK)
        done = tuple(
            JobVm(
                key=vm.key,
                name=vm.name,
                host=HOSTS[number % len(HOSTS)].name,
                status="done",
                point=f"point-{day}",
                disks=len(DISKS_GIB),
                disk_bytes=sum(DISKS_GIB) * GIB,
                changed_bytes=rng.randrange(4 * GIB),
                read_bytes=GIB,
                stored_bytes=GIB // 3,
                seconds=rng.uniform(5, 60),
            )
            for number, vm in enumerate(vms)
        )
        ended = started + timedelta(hours=3)
        record = JobRecord(job=job, status="done", started_at=started, ended_at=ended, vms=done)
        session.put_job(record)


def distributed(session: Session, job: Job, vms: list[VirtualMachine]) -> tuple[Manifest, ...]:
    """Do what the task does after discovery, the manifests into the repository included."""
    past = Past(session.repository.job_outlines())
    manifests = prepare(job, vms, HOSTS, Terms(POLICY, split_bytes=8 * GIB), past, now=STARTED)
    return tuple(spill(session, manifest) for manifest in manifests)


def measure_distribution(count: int, paths: Paths) -> dict[str, Any]:
    """The past and an inventory into manifests."""
    session, job, _ = _joined(paths)
    vms = machines(count)
    return _measured(lambda: len(distributed(session, job, vms)))


# Completion.


def measure_completion(_: int, paths: Paths) -> dict[str, Any]:
    """Sets and images into restore points and a record."""
    session, job, manifests = _joined(paths)

    def work() -> int:
        record = complete(session, job, manifests, started_at=STARTED)
        require(record.status == "done", str(record.vms[0]))
        return len(record.vms)

    return _measured(work)


def _joined(paths: Paths) -> tuple[Session, Job, tuple[Manifest, ...]]:
    repository = opened(paths.repository)
    lines = paths.job.read_bytes().splitlines()
    job = from_json(Job, lines[0], "job")
    manifests = tuple(from_json(Manifest, line, "manifest") for line in lines[1:])
    return repository.join_session(job.session), job, manifests


def prepare_job(count: int, paths: Paths, filled: float = FILLED) -> None:
    """
    Make all that the streams of a job would have left, and what was there before.

    :param filled: the part of regions that are only named; with 0.0 all that is named is there.
    """
    paths.repository.mkdir()
    create(paths.repository)
    repository = opened(paths.repository)
    session = repository.open_session("backup", run="today")
    job = Job(run="today", session=session.id, policy="nightly", stack=STACK)
    vms = machines(count)
    put_past(session, vms)
    manifests = distributed(session, job, vms)
    paths.job.write_bytes(b"\n".join(map(to_json, [job, *manifests])))
    maker = _Maker(session, job, list(_groups(session)), filled)
    for _ in in_parallel(maker.make, vms, 2):
        pass
    repository.close()


def _groups(session: Session) -> Iterator[tuple[bytes, bytes]]:
    """Store regions as they were and as they are now, each block of which is there."""
    rng = Random(2)
    with session.writer() as writer:

        def block() -> bytes:
            return writer.add(rng.randbytes(BLOCK_BYTES)).block_id

        for _ in range(GROUPS):
            ids = [block() for _ in range(BLOCKS_OF_GROUP)]
            old = _group(writer, ids)
            for number in rng.sample(range(BLOCKS_OF_GROUP), CHANGED_BLOCKS):
                ids[number] = block()
            yield old, _group(writer, ids)
        writer.flush()


def _group(writer: BlockWriter, ids: list[bytes]) -> bytes:
    cell = REGION_BYTES // BLOCKS_OF_GROUP
    runs = []
    for number, block_id in enumerate(ids):
        first = Run(number * cell, BLOCK_BYTES, block_id)
        runs += [first, Run(first.end, cell - BLOCK_BYTES)]
    return store_runs(writer, runs)[0] or b""


class _Maker:
    """Puts what a VM's backups of two days left."""

    def __init__(
        self, session: Session, job: Job, groups: list[tuple[bytes, bytes]], filled: float
    ) -> None:
        self._session = session
        self._job = job
        self._groups = groups
        self._share = filled

    def make(self, vm: VirtualMachine) -> None:
        rng = Random(vm.key)
        old = [self._image(rng, vm, n, "yesterday", None) for n in range(len(vm.disks))]
        self._put_point(vm, old)
        new = [self._image(rng, vm, n, "today", before) for n, before in enumerate(old)]
        self._session.put_set(
            SnapshotSet(
                id=new[0].set_id,
                run="today",
                vm=vm,
                consistency="crash",
                snapshots=tuple(image.snapshot for image in new),
            )
        )

    def _put_point(self, vm: VirtualMachine, images: list[Image]) -> None:
        taken_at = images[0].snapshot.taken_at
        point_id = names.point_id(taken_at, images[0].set_id)
        point = RestorePoint(
            id=point_id,
            run="yesterday",
            session=self._job.session,
            policy="nightly",
            stack=STACK,
            set_id=images[0].set_id,
            consistency="crash",
            taken_at=taken_at,
            published_at=taken_at,
            vm=vm,
            images=tuple(map(PointImage.of, images)),
        )
        self._session.repository.records.put(f"points/{vm.key}/{point_id}", point)

    def _image(
        self, rng: Random, vm: VirtualMachine, number: int, run: str, before: Image | None
    ) -> Image:
        disk = vm.disks[number]
        regions = list(before.regions) if before else self._filled(rng, disk.size_bytes)
        changes = Random(disk.unique_id)  # the same on both days
        for _ in range(2):
            place = changes.randrange(len(regions))
            regions[place] = changes.choice(self._groups)[1 if before else 0]
        taken_at = STARTED if before else STARTED - timedelta(days=1)
        set_id = names.set_id(self._job.session, 1 if before else 2)
        snapshot = DiskSnapshot(
            disk_key=disk.key,
            kind="managed",
            id=f"/snapshots/{run}/{disk.unique_id}",
            size_bytes=disk.size_bytes,
            unique_id=disk.unique_id,
            taken_at=taken_at,
        )
        image = Image(
            name=f"images/{run}/{vm.key}.{disk.key}/{set_id}-{rng.randbytes(4).hex()}",
            run=run,
            vm_key=vm.key,
            set_id=set_id,
            snapshot=snapshot,
            size_bytes=disk.size_bytes,
            region_bytes=REGION_BYTES,
            regions=tuple(regions),
            changes_known="difference" if before else "allocated",
            based_on=before.name if before else "",
            changed_bytes=20 << 20,
            read_bytes=24 << 20,
            stored_bytes=8 << 20,
            seconds=2.0,
        )
        self._session.put_image(image)
        return image

    def _filled(self, rng: Random, size_bytes: int) -> list[bytes | None]:
        return [
            rng.randbytes(32) if rng.random() < self._share else None
            for _ in range(size_bytes // REGION_BYTES)
        ]


# Measuring.


def require(holds: bool, what: str) -> None:  # noqa: FBT001 - a check of what was measured
    """Stop when what was measured is not what was meant."""
    if not holds:
        sys.exit(f"not measured: {what}")


def _measured(work: Callable[[], int]) -> dict[str, Any]:
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "mib": peak_mib(),
        "mib_more": peak_mib() - before,
    }


MEASURES: dict[str, Callable[[int, Paths], dict[str, Any]]] = {
    "discovery": measure_discovery,
    "distribution": measure_distribution,
    "completion": measure_completion,
}


def run(step: str, count: int, directory: Path) -> dict[str, Any]:
    """Do one step in a process of its own."""
    return answer(__file__, "--step", step, "--vms", count, "--directory", directory)


def report(results: dict[tuple[str, int], dict[str, Any]], counts: list[int]) -> bool:
    """Print the table; tell whether all bars hold."""
    print(f"{'':14}{'VMs':>8}{'seconds':>10}{'CPU-s':>8}{'MiB':>7}{'more':>6}{'ms/VM':>8}  bar")
    holds = True
    for step in MEASURES:
        for count in counts:
            found = results[step, count]
            each = 1000 * found["seconds"] / count
            bar = BARS[step] if count == max(VMS) else None
            kept = bar is None or found["seconds"] <= bar
            holds &= kept
            verdict = "" if bar is None else f"  {bar:.0f} s {'ok' if kept else 'MISSED'}"
            print(
                f"{step:14}{count:8,}{found['seconds']:10.2f}{found['cpu_seconds']:8.2f}"
                f"{found['mib']:7.0f}{found['mib_more']:6.0f}{each:8.3f}{verdict}"
            )
        if len(counts) > 1:
            first, last = (results[step, n]["cpu_seconds"] / n for n in (counts[0], counts[-1]))
            verdict = "flat" if last <= FLAT * first else "NOT FLAT"
            print(f"{step:14}CPU time of each VM in the larger job: {last / first:.2f}, {verdict}")
    return holds


def main() -> int:
    """Measure all, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, nargs="+", default=list(VMS))
    parser.add_argument("--directory", type=Path, help="a directory to work in, best in memory")
    parser.add_argument("--step", choices=[*MEASURES, "prepare"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        paths = Paths(options.directory / "repository", options.directory / "job")
        if options.step == "prepare":
            prepare_job(options.vms[0], paths)
        else:
            print(json.dumps(MEASURES[options.step](options.vms[0], paths)))
        return 0
    results = {}
    for count in options.vms:
        with tempfile.TemporaryDirectory(dir=options.directory) as place:
            run("prepare", count, Path(place))
            for step in MEASURES:
                results[step, count] = run(step, count, Path(place))
    return 0 if report(results, options.vms) else 1


if __name__ == "__main__":
    sys.exit(main())
