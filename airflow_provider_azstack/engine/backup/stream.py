"""
Stream workloads: for each VM its snapshot set, and from that an image of every disk.

Owns the order of the work, its isolation (a VM that fails stops no other, a disk that fails stops
no other disk), the choice of the reference, and the access grants; how bytes become images is the
pipeline's business. Invariants: all images of a VM are of one snapshot set, and every grant that is
given here is revoked here, whatever happens.

The disks of a VM are read one after another, and so are the VMs of a workload: one stream is one
disk at a time, so the number of streams is what bounds memory, bandwidth, and the caps.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.backup import window
from airflow_provider_azstack.engine.backup.disk import back_up_disk
from airflow_provider_azstack.engine.backup.manifests import workload_vms
from airflow_provider_azstack.engine.backup.snapshots import Work, take_set
from airflow_provider_azstack.engine.machines import id_part
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.progress import Progress
from airflow_provider_azstack.errors import (
    AzStackError,
    Cancelled,
    ChangesLied,
    IntegrityError,
    ObjectNotFound,
    SessionLost,
    StoreFull,
    StreamsFailed,
    WindowEnded,
)
from airflow_provider_azstack.model import (
    ChangesKnown,
    DiskSnapshot,
    Image,
    RestorePoint,
    SnapshotSet,
    Workload,
    WorkloadVm,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

GRANT_SECONDS = 4 * 3600
# After these no other VM or disk of the workload can be done either.
_STOP_ALL = (Cancelled, SessionLost, StoreFull)

Tell = Callable[[str], None]
Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Reference(NamedTuple):
    """What a disk's changes are counted from: the image, and the snapshot that it was read from."""

    image: Image
    snapshot: DiskSnapshot


def snapshot_workload(
    stack: Stack, session: Session, workload: Workload, *, clock: Clock = _utc_now
) -> None:
    """
    Take the snapshot set of every VM of a workload.

    :raises StreamsFailed: some could not be taken, or the backup window ended; all were tried.
    """
    _each_vm(stack, session, workload, take_set, clock=clock)


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

    def one(work: Work, vm: WorkloadVm) -> None:
        stream_vm(
            work, vm, take_set(work, vm), progress=progress, cancel=cancel, pace=pace, clock=clock
        )

    _each_vm(stack, session, workload, one, cancel=cancel, clock=clock)


def stream_vm(
    work: Work,
    vm: WorkloadVm,
    snapshot_set: SnapshotSet,
    *,
    progress: Tell | None = None,
    cancel: threading.Event | None = None,
    pace: Pace | None = None,
    clock: Clock = _utc_now,
) -> tuple[Image, ...]:
    """
    Return an image of every disk in the set, made now or by an earlier try.

    :returns: none for a set without snapshots: the VM was skipped.
    :raises AzStackError: the first disk's error; the other disks were done all the same.
    """
    reader = _DiskReader(work, vm, cancel, pace, clock)
    point = _latest_point(work.session.repository, vm) if work.job.mode == "incremental" else None
    images: list[Image] = []
    first_error: AzStackError | None = None
    for snapshot in snapshot_set.snapshots:
        try:
            images.append(reader.image(snapshot_set, snapshot, point, progress))
        except _STOP_ALL:
            raise
        except AzStackError as error:
            log.error("%s %s: %s", vm.name, snapshot.disk_key, error)  # noqa: TRY400 - says it all
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    return tuple(images)


class _DiskReader:
    """Makes the images of one VM's disks."""

    def __init__(
        self,
        work: Work,
        vm: WorkloadVm,
        cancel: threading.Event | None,
        pace: Pace | None,
        clock: Clock,
    ) -> None:
        self._work = work
        self._compute = Compute(work.stack)
        self._repository = work.session.repository
        self._vm = vm
        self._cancel = cancel
        self._pace = pace
        self._clock = clock

    def image(
        self,
        snapshot_set: SnapshotSet,
        snapshot: DiskSnapshot,
        point: RestorePoint | None,
        progress: Tell | None,
    ) -> Image:
        """Return the disk's image of this set: an earlier try's, else a new one."""
        for image in self._repository.images(self._work.job.run, self._vm.key, snapshot.disk_key):
            if image.set_id == snapshot_set.id and image.snapshot == snapshot:
                log.info("%s %s: %s is there already", self._vm.name, snapshot.disk_key, image.name)
                return image
        reference = _reference(self._repository, point, snapshot)
        trust: ChangesKnown = "difference" if reference else "allocated"
        try:
            return self._back_up(snapshot_set, snapshot, reference, trust, progress)
        except ChangesLied as lie:
            # What earlier images took over on the stack's word may be wrong as well; this one is
            # made right at once rather than by a next run that has to remember the lie.
            log.error(  # noqa: TRY400 - the message says it all
                "%s %s: the stack says of changed pages that they have not changed: %s: the whole "
                "disk is read; earlier restore points of it that relied on changed ranges may "
                "hold stale pages: verify or replace them",
                self._vm.name,
                snapshot.disk_key,
                lie,
            )
            return self._back_up(snapshot_set, snapshot, None, "everything", progress)

    def _back_up(
        self,
        snapshot_set: SnapshotSet,
        snapshot: DiskSnapshot,
        reference: Reference | None,
        trust: ChangesKnown,
        progress: Tell | None,
    ) -> Image:
        unique = uuid.uuid4().hex[:8]  # two copies of a task never write one name
        name = (
            f"images/{self._work.job.run}/{self._vm.key}.{snapshot.disk_key}/"
            f"{snapshot_set.id}-{unique}"
        )

        def tell(seen: Progress) -> None:
            if not seen.is_done:
                window.check_may_run(self._work.job, self._clock())
            if progress:
                progress(seen.told(name, f"{self._vm.name} {snapshot.disk_key}"))

        with self._opened(snapshot, reference) as source:
            return back_up_disk(
                source,
                self._work.session,
                name=name,
                run=self._work.job.run,
                vm_key=self._vm.key,
                set_id=snapshot_set.id,
                snapshot=snapshot,
                previous=reference.image if reference else None,
                trust=trust,
                progress=tell,
                cancel=self._cancel,
                pace=self._pace,
            )

    @contextmanager
    def _opened(self, snapshot: DiskSnapshot, reference: Reference | None) -> Iterator[BlobDisk]:
        """Open a snapshot for reading; whatever was granted is revoked at the end."""
        before = reference.snapshot if reference else None
        is_managed = snapshot.kind == "managed"
        with ExitStack() as undo:
            grant = self._grants(snapshot, undo)
            disk = BlobDisk(
                grant,
                size_bytes=snapshot.size_bytes,
                previous_snapshot=before.blob_snapshot if before and not is_managed else "",
                previous_grant=self._grants(before, undo) if before and is_managed else None,
                blob_version=self._work.stack.profile.blob,
                ca_bundle=self._work.stack.ca_bundle,
                clock=self._work.stack.clock,
            )
            undo.enter_context(disk)
            yield disk

    def _grants(self, snapshot: DiskSnapshot, undo: ExitStack) -> Callable[[], Grant]:
        """Return what asks for access to a snapshot, having seen to it that it will be revoked."""
        if snapshot.kind == "unmanaged":
            # Signed by us with the account's key: nothing to revoke, it ends by itself.
            return lambda: self._work.accounts.grant(
                snapshot.id, snapshot.blob_snapshot, GRANT_SECONDS
            )
        undo.callback(self._revoke, snapshot)
        return lambda: self._compute.grant_read(snapshot.id, GRANT_SECONDS)

    def _revoke(self, snapshot: DiskSnapshot) -> None:
        try:
            self._compute.revoke(snapshot.id)
        except AzStackError as error:
            log.warning("access to %s is left for the clean-up: %s", snapshot.id, error)


def _each_vm(
    stack: Stack,
    session: Session,
    workload: Workload,
    one: Callable[[Work, WorkloadVm], object],
    *,
    cancel: threading.Event | None = None,
    clock: Clock,
) -> None:
    vms = workload_vms(session.repository, workload)
    failures: dict[str, tuple[str, Exception]] = {}
    with Accounts(stack, (id_part(vm.id, "subscriptions") for vm in vms)) as accounts:
        work = Work(stack, accounts, session, workload.job)
        for vm in vms:
            if cancel is not None and cancel.is_set():
                raise Cancelled("the task was told to stop")
            try:
                window.check_may_begin(workload.job, clock())
                one(work, vm)
            except _STOP_ALL:
                raise
            except WindowEnded as ended:
                log.warning("%s: %s", vm.name, ended)
                failures[vm.key] = (vm.name, ended)
            except Exception as error:
                log.exception("%s failed; the other VMs of %s go on", vm.name, workload.label)
                failures[vm.key] = (vm.name, error)
    if failures:
        raise StreamsFailed(failures, len(vms))


def _latest_point(repository: Repository, vm: WorkloadVm) -> RestorePoint | None:
    """Return the VM's last restore point, or None when it cannot be relied on: then read it all."""
    try:
        return repository.latest_point(vm.key)
    except IntegrityError as error:
        log.warning("%s: %s: this backup reads everything that is allocated", vm.name, error)
        return None


def _reference(
    repository: Repository, point: RestorePoint | None, snapshot: DiskSnapshot
) -> Reference | None:
    """Return what to count changes from: the last image of the very same disk."""
    for image in point.images if point else ():
        if image.snapshot.unique_id == snapshot.unique_id:
            try:
                return Reference(repository.image(image.image), image.snapshot)
            except (IntegrityError, ObjectNotFound) as error:
                log.warning("%s: %s: reading everything that is allocated", image.image, error)
    return None
