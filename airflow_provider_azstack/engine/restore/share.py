"""
A restore on several backup hosts: where the plan is kept, and what each task does of it.

Owns the plan's place in the repository, and the names by which tasks are told what is theirs; how
disks are written is not its business.
Invariants: a disk is written by one host, or by several that prepared for it; what hosts carry out
is the very plan that was agreed to, sealed in the repository.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.restore.disks import write_disk, write_disks, write_share
from airflow_provider_azstack.engine.restore.execute import opened, prepare_vms
from airflow_provider_azstack.engine.restore.parts import Regions
from airflow_provider_azstack.engine.restore.plan import require_agreed
from airflow_provider_azstack.engine.restore.prepare import Splitting, handed_out, pieces
from airflow_provider_azstack.engine.restore.records import (
    PlannedDisk,
    PlannedVm,
    RestorePlan,
    each_disk,
)
from airflow_provider_azstack.engine.restore.writing import Restore, Tell
from airflow_provider_azstack.errors import ConfigurationError, ObjectExists
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import Try, plan_name
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

Task = Mapping[str, Any]


def keep(session: Session, plan: RestorePlan, run: str) -> str:
    """Keep a plan in the repository for its run; return its name there."""
    name = plan_name(plan.id, Try(run, session.id))
    with suppress(ObjectExists):  # an earlier try of the same task: what it kept is what counts
        session.repository.records.put(name, plan)
    return name


def kept(repository: Repository, name: str) -> RestorePlan:
    """Return a plan by its name."""
    return repository.records.get(name, RestorePlan)


@contextmanager
def at_work(
    stack: Stack,
    session: Session,
    plan: RestorePlan,
    *,
    tell: Tell,
    host: str = "",
    cancel: threading.Event | None = None,
    pace: Pace | None = None,
) -> Iterator[Restore]:
    """
    Give what a task carries its part of a plan out with.

    :param host: is noted with what it writes.
    """
    require_agreed(plan, stack, session.repository)
    with opened(stack, session, plan, tell) as restore:
        yield restore._replace(host=host, cancel=cancel, pace=pace)


def prepare(restore: Restore, splitting: Splitting) -> dict[str, Any]:
    """
    Make ready what exists, and the disks that several hosts write.

    Return the tasks of each host, and the disks to ``finish`` when all of them have ended.
    """
    why_not = prepare_vms(restore)
    for vm in restore.plan.vms:
        if vm.key in why_not:
            log.error("%s: %s", vm.name, why_not[vm.key])
    work = pieces(restore, {vm.key for vm in restore.plan.vms} - why_not.keys(), splitting)
    split = {(piece.vm.key, piece.disk.key): None for piece in work if piece.share is not None}
    return {
        "disks": handed_out(work, splitting.streams),
        "split": [{"vm": vm, "key": key} for vm, key in split],
    }


def write(restore: Restore, task: Task) -> None:
    """
    Write what a task was told to: a disk, or a share of one.

    :raises ConfigurationError: the plan has no such disk.
    """
    vm, disk = _meant(restore, task)
    if (share := task.get("share")) is None:
        write_disk(restore, vm, disk)
    else:
        write_share(restore, vm, disk, _regions(share))


def finish(restore: Restore, tasks: Iterable[Task]) -> None:
    """
    Write what hosts left of the disks that they shared, and make those complete.

    :raises ConfigurationError: the plan has no such disk.
    :raises AzStackError: the first disk's error; all others were tried, and are in the log.
    """
    failed = write_disks(restore, [_meant(restore, task) for task in tasks])
    for vm, disk, error in failed[1:]:
        log.error("%s %s: %s", vm.name, disk.key, error)
    if failed:
        raise failed[0].error


def _meant(restore: Restore, task: Task) -> tuple[PlannedVm, PlannedDisk]:
    vm_key, disk_key = task.get("vm"), task.get("key")
    for vm, disk in each_disk(restore.plan):
        if (vm.key, disk.key) == (vm_key, disk_key):
            return vm, disk
    raise ConfigurationError(f"the plan has no disk {disk_key} of {vm_key}: run again")


def _regions(share: object) -> Regions:
    match share:
        case [int(first), int(end)] if 0 <= first < end:
            return Regions(first, end)
    raise ConfigurationError(f"{share!r} is no share of a disk: run again")
