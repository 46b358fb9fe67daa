"""
Write the disks of a restore: from images to the stack, several at once, several ranges in flight.

Owns the order of the steps, what is noted after each, and what a second try may rely on; knows
nothing of VMs.
Invariants: a disk is finished only when every part of it, its footer last, was acknowledged and
noted; a part that is noted is on that very disk.

In order, for each disk: D1 look for what an earlier try left; an upload that can go on goes on,
one that was ended half way, or that the stack lets nobody else write, is deleted. D2 create it. D3
write each part that is not noted, and note it. D4 write and note the footer. D5 finish: it becomes
usable. D6 read it back, if asked. D7 note that it is complete: nothing uses it before.

Where several hosts write one disk, D1 and D2 are done before by ``prepare``, each host does D3 for
its share, and ``write_disk`` does what is left when all of them have ended.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.engine.restore.parts import Regions, is_written, part_name, parts
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    FOOTER,
    USED,
    DiskDone,
    Notes,
    PartDone,
    PlannedDisk,
    PlannedVm,
)
from airflow_provider_azstack.engine.restore.targets import (
    Found,
    Target,
    reader_of,
    staged_instead,
    target_of,
    writer_of,
)
from airflow_provider_azstack.engine.restore.writing import THREADS, Content, Restore
from airflow_provider_azstack.errors import (
    AzStackError,
    IntegrityError,
    Refused,
    SourceBusy,
    SourceChanged,
    SourceGone,
    UnsupportedStack,
)

log = logging.getLogger(__name__)

DISKS_AT_ONCE = 4


def write_disks(restore: Restore, disks: Sequence[tuple[PlannedVm, PlannedDisk]]) -> None:
    """
    Write disks until they are complete; those that are already are left alone.

    :raises AzStackError: the first disk's error; all others were tried.
    """
    at_once = max(1, min(DISKS_AT_ONCE, len(disks)))
    with ThreadPoolExecutor(at_once, "restore-disk") as pool:
        futures = [
            pool.submit(write_disk, restore, vm, disk, threads=max(2, THREADS // at_once))
            for vm, disk in disks
        ]
    errors = [future.exception() for future in futures]
    for error, (vm, disk) in zip(errors, disks, strict=True):
        if error:
            log.error("%s %s: %s", vm.name, disk.key, error)
    for error in filter(None, errors):
        raise error


def write_disk(
    restore: Restore, vm: PlannedVm, disk: PlannedDisk, *, threads: int = THREADS
) -> None:
    """Write one disk until it is complete."""
    _DiskRestore(restore, vm, disk, threads).run()


def write_share(restore: Restore, vm: PlannedVm, disk: PlannedDisk, share: Regions) -> None:
    """
    Write a share of a disk that ``prepare`` made; others may write the same at the same time.

    :raises SourceGone: there is no disk to write, or no longer.
    """
    _DiskRestore(restore, vm, disk, THREADS).run_share(share)


def is_complete(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> bool:
    """Tell whether a disk is there, whole, and noted to be."""
    # A disk whose direct upload was refused is made by an import: either way it is the same disk.
    target = _target(restore, disk)
    found = target.found()
    return found is not None and COMPLETE in notes_of(restore, vm, disk, found).done()


def first_use(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> None:
    """
    Note that a complete disk is about to be used; it must not have been changed since.

    The note comes before the use, so a disk that has it may be untouched, or may be what is left of
    a VM that ran: then it is read back and compared.

    :raises Refused: it is not what was restored any more.
    """
    target = _target(restore, disk)
    found = target.found()
    if found is None:
        raise Refused(f"{disk.id} is gone: restore again")
    notes = notes_of(restore, vm, disk, found)
    if USED in notes.done():
        try:
            _DiskRestore(restore, vm, disk, THREADS).verify(target)
        except (IntegrityError, SourceBusy) as error:
            raise Refused(
                f"{disk.id} was restored by this very request before, and used since ({error}): "
                "delete it, or ask for another name"
            ) from None
    notes.note(USED, PartDone(bytes=0))


def discard_unfinished(
    restore: Restore, disks: Iterable[tuple[PlannedVm, PlannedDisk]]
) -> list[str]:
    """
    Delete what a restore left half-written; return their places.

    :raises AzStackError: the first error; all others were tried.
    """
    gone: list[str] = []
    first_error: AzStackError | None = None
    for vm, disk in disks:
        try:
            gone += _discarded(restore, vm, disk)
        except AzStackError as error:
            log.warning("%s %s: %s", vm.name, disk.key, error)
            first_error = first_error or error
    if first_error:
        raise first_error
    return gone


def _discarded(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> list[str]:
    variants = [disk]
    if disk.staging and disk.way == "upload":
        variants = [replace(disk, way="import")]
    for one in variants:
        target = _target(restore, one)
        try:
            found = target.found()
        except Refused:
            continue  # somebody else's
        if found and COMPLETE not in notes_of(restore, vm, disk, found).done():
            target.discard()
            return [disk.id]
    return []


def notes_of(restore: Restore, vm: PlannedVm, disk: PlannedDisk, found: Found) -> Notes:
    """Return what is noted of the very disk that was found."""
    repository = restore.session.repository
    return Notes(repository, restore.plan.id, vm.key, disk.key, found.attempt)


def standing(restore: Restore, disk: PlannedDisk) -> tuple[Target, Found | None]:
    """
    Return where a disk is written to, and what is there.

    :raises Refused: something is there that this plan did not make.
    """
    target = _target(restore, disk)
    found = target.found()
    may_be_staged = found is None or found.is_whole
    if may_be_staged and disk.way == "upload" and disk.staging:
        staged = _target(restore, replace(disk, way="import"))
        if (half := staged.found()) is not None:
            return staged, half
    return target, found


def _target(restore: Restore, disk: PlannedDisk) -> Target:
    return target_of(restore.stack, restore.accounts, restore.plan.id, disk)


class _DiskRestore:
    """One disk."""

    def __init__(self, restore: Restore, vm: PlannedVm, disk: PlannedDisk, threads: int) -> None:
        self._restore = restore
        self._vm = vm
        self._disk = disk
        self._threads = threads
        self._content = Content(restore, vm, disk, threads)

    def run(self) -> None:
        """Do D1 to D7."""
        self._restore.session.check()
        if is_complete(self._restore, self._vm, self._disk):
            return
        target, found = self._opened()
        notes = self._notes(found)
        if found.is_open:
            self._write(target, notes)
        if not (found.is_whole or self._is_written(notes)):
            raise IntegrityError(f"{self._disk.id}: parts of it are not noted: try again")
        target.finish()  # D5
        found = self._finished(target, found)
        if self._restore.plan.request.verify:
            self.verify(target)  # D6
        self._restore.session.check()
        whole = DiskDone(
            bytes=self._content.written_bytes,
            seconds=self._content.seconds,
            verified=self._restore.plan.request.verify,
        )
        self._notes(found).note(COMPLETE, whole)  # D7
        self._restore.tell(f"{self._content}: complete")

    def run_share(self, share: Regions) -> None:
        """Do D3 for a share."""
        self._restore.session.check()
        if is_complete(self._restore, self._vm, self._disk):
            return
        target, found = standing(self._restore, self._disk)
        if found is None or not (found.is_open or found.is_whole):
            raise SourceGone(f"{self._disk.id} is not there to be written (any more): run again")
        if found.is_open:
            with writer_of(self._restore.stack, target, self._threads) as writer:
                self._write_parts(writer, self._notes(found), share)
        self._restore.tell(f"{self._content}: this host's share is done")

    def verify(self, target: Target) -> None:
        """Read the disk back and compare it with the image."""
        with reader_of(self._restore.stack, target, self._disk.size_bytes) as disk:
            self._content.compare(disk)

    def _write(self, target: Target, notes: Notes) -> None:
        with writer_of(self._restore.stack, target, self._threads) as writer:
            self._write_parts(writer, notes)  # D3
            if FOOTER not in notes.done():
                footer = self._content.footer()
                writer.write(self._disk.size_bytes, footer)  # D4
                notes.note(FOOTER, PartDone(bytes=len(footer), host=self._restore.host))

    def _write_parts(self, writer: DiskWriter, notes: Notes, share: Regions | None = None) -> None:
        content = self._content
        for part in parts(content.image, notes.done(), content.data_bytes, share):
            sent = content.write(writer, part)
            self._restore.session.check()
            notes.note(part_name(part), PartDone(bytes=sent, host=self._restore.host))

    def _finished(self, target: Target, before: Found) -> Found:
        """Return the disk that was finished; it must be the very one that was written."""
        after = target.found()
        if after is None or not (after.is_whole or after.attempt == before.attempt):
            raise SourceChanged(f"{self._disk.id} was made again by another try meanwhile")
        return after

    def _notes(self, found: Found) -> Notes:
        return notes_of(self._restore, self._vm, self._disk, found)

    def _is_written(self, notes: Notes) -> bool:
        return is_written(self._content.image, notes.done())

    def _opened(self) -> tuple[Target, Found]:
        """Return the disk to go on with, or a new one."""
        target, found = standing(self._restore, self._disk)  # D1
        if found is not None and not self._can_go_on(found):
            log.warning("%s was ended half way: it is deleted and made again", self._disk.id)
            target.discard()
            found = None
        if found is not None and found.is_open and not self._is_admitted(target):
            target.discard()
            found = None
        if found is not None:
            return target, found
        try:
            return target, target.create()  # D2
        except UnsupportedStack as error:
            target = _target(self._restore, staged_instead(self._disk, error))
            return target, target.create()

    def _is_admitted(self, target: Target) -> bool:
        try:
            target.admit()
        except SourceBusy:
            log.warning(
                "%s: an earlier try's access has not ended and the stack gives no second one: it "
                "is deleted and made again",
                self._disk.id,
            )
            return False
        return True

    def _can_go_on(self, found: Found) -> bool:
        return found.is_open or found.is_whole or self._is_written(self._notes(found))
