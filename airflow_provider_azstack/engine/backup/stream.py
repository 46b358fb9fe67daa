"""
Stream workloads: for each VM its snapshot set, and from that an image of every disk.

Owns the order of the work and its isolation (a VM that fails stops no other, a disk that fails
stops no other disk); how a disk is read is its reader's business. Invariant: all images that are
made here of a VM are of one snapshot set.

The disks of a VM are read one after another, and so are the VMs of a workload: one stream is one
disk at a time, so the number of streams is what bounds memory, bandwidth, and the caps.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.backup import sets, window
from airflow_provider_azstack.engine.backup.disk_reader import Conditions, DiskReader, Tell
from airflow_provider_azstack.engine.backup.manifests import workload_vms
from airflow_provider_azstack.engine.backup.snapshots import Work, take_set, take_set_if_due
from airflow_provider_azstack.engine.machines import id_part
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.errors import (
    AzStackError,
    Cancelled,
    IntegrityError,
    SessionLost,
    StoreFull,
    StreamsFailed,
    WindowEnded,
)
from airflow_provider_azstack.model import (
    RestorePoint,
    SnapshotSet,
    Workload,
    WorkloadVm,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

# After these no other VM or disk of the workload can be done either.
_STOP_ALL = (Cancelled, SessionLost, StoreFull)

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def snapshot_workload(
    stack: Stack, session: Session, workload: Workload, *, clock: Clock = _utc_now
) -> None:
    """
    Take the snapshot set of every VM of a workload, unless another stream of the VM takes it.

    :raises StreamsFailed: some could not be taken, or the backup window ended; all were tried.
    """
    _each_vm(stack, session, workload, take_set_if_due, clock=clock)


def stream_workload(
    stack: Stack,
    session: Session,
    workload: Workload,
    *,
    progress: Tell | None = None,
    cancel: threading.Event | None = None,
    pace: Pace | None = None,
    clock: Clock = _utc_now,
) -> None:
    """
    Stream every VM of a workload; a VM whose snapshot set is missing or lost gets a new one.

    :param progress: told a line every few seconds.
    :param pace: holds back what is read; None: as fast as it goes.
    :raises StreamsFailed: some VMs failed, or the backup window ended; all were tried.
    """
    conditions = Conditions(clock, progress, cancel, pace)

    def one(work: Work, vm: WorkloadVm) -> AzStackError | None:
        return stream_vm(work, vm, take_set(work, vm), conditions)

    _each_vm(stack, session, workload, one, cancel=cancel, clock=clock)


def stream_vm(
    work: Work, vm: WorkloadVm, snapshot_set: SnapshotSet, conditions: Conditions
) -> AzStackError | None:
    """
    Make an image of all that is streamed here of a VM, unless an earlier try has made it.

    :returns: the first disk's error, which the log has; the other disks were done all the same.
    """
    point = _latest_point(work.session.repository, vm) if work.job.mode == "incremental" else None
    reader = DiskReader(work, vm, snapshot_set, point, conditions)
    here = {disk.key: disk.part for disk in vm.streamed}
    first_error: AzStackError | None = None
    for snapshot in snapshot_set.snapshots:
        if snapshot.disk_key not in here:
            continue
        try:
            reader.image(snapshot, here[snapshot.disk_key])
        except _STOP_ALL:
            raise
        except AzStackError as error:
            _tell(f"{vm.name} {snapshot.disk_key}", error)
            first_error = first_error or error
    return first_error


def _each_vm(
    stack: Stack,
    session: Session,
    workload: Workload,
    one: Callable[[Work, WorkloadVm], AzStackError | None],
    *,
    cancel: threading.Event | None = None,
    clock: Clock,
) -> None:
    vms = workload_vms(session.repository, workload)
    failures: dict[str, tuple[str, Exception]] = {}
    with Accounts(stack, (id_part(vm.id, "subscriptions") for vm in vms)) as accounts:
        who = f"{workload.host}/{workload.number}"
        work = Work(stack, accounts, session, workload.job, who, cancel)
        for vm in vms:
            if cancel is not None and cancel.is_set():
                raise Cancelled("the task was told to stop")
            try:
                if not _is_begun(work, vm):
                    window.check_may_begin(workload.job, clock())
                failure: Exception | None = one(work, vm)
            except _STOP_ALL:
                raise
            except AzStackError as error:
                _tell(vm.name, error)
                failure = error
            except Exception as error:
                log.exception("%s failed; the other VMs of %s go on", vm.name, workload.label)
                failure = error
            if failure is not None:
                failures[vm.key] = (vm.name, failure)
    if failures:
        raise StreamsFailed(failures, len(vms))


def _tell(what: str, error: AzStackError) -> None:
    """Say in one line why something was not done; the way there is for who debugs."""
    level = logging.WARNING if isinstance(error, WindowEnded) else logging.ERROR
    log.log(level, "%s: %s", what, error)
    log.debug("%s failed here", what, exc_info=error)


def _is_begun(work: Work, vm: WorkloadVm) -> bool:
    """Tell whether another piece of the VM was begun: then the window does not leave it out."""
    if vm.pieces == 1 or work.job.stop_starting_at is None:
        return False
    recorded = work.session.repository.sets(work.job.run, vm.key)
    return any(s.snapshots and sets.is_current(s, work.job) for s in recorded)


def _latest_point(repository: Repository, vm: WorkloadVm) -> RestorePoint | None:
    """Return the VM's last restore point, or None when it cannot be relied on: then read it all."""
    try:
        return repository.latest_point(vm.key)
    except IntegrityError as error:
        log.warning("%s: %s: this backup reads everything that is allocated", vm.name, error)
        return None
