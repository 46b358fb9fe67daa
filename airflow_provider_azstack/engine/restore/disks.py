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
from typing import NamedTuple

from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.engine.restore.parts import (
    Regions,
    is_written,
    part_name,
    parts,
    unwritten,
)
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    FOOTER,
    USED,
    DiskDone,
    PartDone,
    PlannedDisk,
    PlannedVm,
    disk_prefix,
    note_lost,
)
from airflow_provider_azstack.engine.restore.standing import (
    Standing,
    is_complete,
    look,
    look_everywhere,
    staged,
)
from airflow_provider_azstack.engine.restore.targets import Target, reader_of, writer_of
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
from airflow_provider_azstack.model import Image

log = logging.getLogger(__name__)

DISKS_AT_ONCE = 4


class Failed(NamedTuple):
    """A disk that could not be written, and why."""

    vm: PlannedVm
    disk: PlannedDisk
    error: AzStackError


def write_disks(restore: Restore, disks: Sequence[tuple[PlannedVm, PlannedDisk]]) -> list[Failed]:
    """
    Write disks until they are complete; those that are already are left alone.

    Return those that failed; all were tried. To say so is the caller's business.
    """
    at_once = max(1, min(DISKS_AT_ONCE, len(disks)))
    with ThreadPoolExecutor(at_once, "restore-disk") as pool:
        futures = [
            pool.submit(write_disk, restore, vm, disk, threads=max(2, THREADS // at_once))
            for vm, disk in disks
        ]
    failed = []
    for future, (vm, disk) in zip(futures, disks, strict=True):
        try:
            future.result()
        except AzStackError as error:
            failed.append(Failed(vm, disk, error))
    return failed


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


def first_use(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> None:
    """
    Note that a complete disk is about to be used; it must not have been changed since.

    The note comes before the use, so a disk that has it may be untouched, or may be what is left of
    a VM that ran: then it is read back and compared.

    :raises Refused: it is not what was restored any more.
    """
    there = look(restore, vm, disk)
    if there.found is None:
        raise Refused(f"{disk.id} is gone: restore again")
    if USED in there.done():
        try:
            _DiskRestore(restore, vm, disk, THREADS).verify(there.target)
        except (IntegrityError, SourceBusy) as error:
            raise Refused(
                f"{disk.id} was restored by this very request before, and used since ({error}): "
                "delete it, or ask for another name"
            ) from None
    there.note(USED, PartDone(bytes=0))


def discard_unfinished(
    restore: Restore, disks: Iterable[tuple[PlannedVm, PlannedDisk]]
) -> list[str]:
    """
    Delete what a restore left half-written; return their places.

    :raises AzStackError: the first error; all others were tried, and are in the log.
    """
    gone: list[str] = []
    first_error: AzStackError | None = None
    for vm, disk in disks:
        try:
            gone += _discarded(restore, vm, disk)
        except AzStackError as error:
            if first_error:
                log.warning("%s %s: %s", vm.name, disk.key, error)
            first_error = first_error or error
    if first_error:
        raise first_error
    return gone


def _discarded(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> list[str]:
    try:
        there = look(restore, vm, disk)
        there = staged(there) if disk.staging and disk.way == "upload" else there
        if there.found is None or COMPLETE in there.done():
            return []
    except Refused:
        return []  # somebody else's, or nothing is known of it any more
    there.target.discard()
    return [disk.id]


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
        there = self._opened()
        if there.is_open:
            self._write(there)
        if not (there.is_whole or self._is_written(there)):
            raise IntegrityError(f"{self._disk.id}: parts of it are not noted: try again")
        assert there.found is not None  # noqa: S101 - it was opened
        there.target.finish(there.found)  # D5
        whole = self._finished(there)
        if self._restore.plan.request.verify:
            self.verify(whole.target)  # D6
        self._restore.session.check()
        summary = DiskDone(
            bytes=self._content.written_bytes,
            seconds=self._content.seconds,
            verified=self._restore.plan.request.verify,
        )
        whole.note(COMPLETE, summary)  # D7
        self._restore.tell(f"{self._content}: complete")

    def run_share(self, share: Regions) -> None:
        """Do D3 for a share."""
        self._restore.session.check()
        if is_complete(self._restore, self._vm, self._disk):
            return
        there = look_everywhere(self._restore, self._vm, self._disk)
        if not (there.is_open or there.is_whole):
            raise SourceGone(f"{self._disk.id} is not there to be written (any more): run again")
        if there.is_open:
            with writer_of(self._restore.stack, there.target, there.found, self._threads) as writer:
                self._write_parts(writer, there, share)
        self._restore.tell(f"{self._content}: this share is done")

    def verify(self, target: Target) -> None:
        """Read the disk back and compare it with the image."""
        with reader_of(self._restore.stack, target, self._disk.size_bytes) as disk:
            self._content.compare(disk)

    def _write(self, there: Standing) -> None:
        with writer_of(self._restore.stack, there.target, there.found, self._threads) as writer:
            self._write_parts(writer, there)  # D3
            if FOOTER not in there.done():
                footer = self._content.footer()
                writer.write(self._disk.size_bytes, footer)  # D4
                there.note(FOOTER, PartDone(bytes=len(footer), host=self._restore.host))

    def _write_parts(
        self, writer: DiskWriter, there: Standing, share: Regions | None = None
    ) -> None:
        content, done = self._content, there.done()
        if share or done:
            content.expect(unwritten(content.image, done, share))
        for part in parts(content.image, done, content.data_bytes, share):
            sent = content.write(writer, part)
            self._restore.session.check()
            prefix = disk_prefix(self._restore.plan.id, self._vm.key, self._disk.key)
            note_lost(self._restore.session.repository, prefix, part_name(part), sent.lost)
            there.note(part_name(part), PartDone(bytes=sent.bytes, host=self._restore.host))

    def _finished(self, before: Standing) -> Standing:
        """Return the disk that was finished; it must be the very one that was written."""
        after = before._replace(found=before.target.found())
        is_same = after.found and before.found and after.found.attempt == before.found.attempt
        if not (after.is_whole or is_same):
            raise SourceChanged(f"{self._disk.id} was made again by another try meanwhile")
        return after

    def _is_written(self, there: Standing) -> bool:
        return is_written(self._content.image, there.done())

    def _opened(self) -> Standing:
        """Return the disk to go on with, or a new one."""
        there = look_everywhere(self._restore, self._vm, self._disk)  # D1
        there = usable(there, self._content.image)
        if there.is_open and not self._is_admitted(there):
            there = there.discarded()
        return created(there)  # D2

    def _is_admitted(self, there: Standing) -> bool:
        assert there.found is not None  # noqa: S101 - it is open
        try:
            there.target.admit(there.found)
        except SourceBusy:
            log.warning(
                "%s: an earlier try's access has not ended and the stack gives no second one: it "
                "is deleted and made again",
                self._disk.id,
            )
            return False
        return True


def usable(there: Standing, image: Image) -> Standing:
    """Return what an earlier try left; nothing, where it was ended half way: that is deleted."""
    if there.found is None or there.is_open or there.is_whole or is_written(image, there.done()):
        return there
    log.warning("%s was ended half way: it is deleted and made again", there.disk.id)
    return there.discarded()


def created(there: Standing) -> Standing:
    """
    Create a disk, unless it is there; where the stack refuses uploads, by way of a page blob.

    :raises UnsupportedStack: it refuses them, and there is nowhere to stage it.
    """
    if there.found is not None:
        return there
    there.begin()
    try:
        return there._replace(found=there.target.create())
    except UnsupportedStack as error:
        if not there.disk.staging:
            raise UnsupportedStack(
                f"{error}: give storage_account, where uploads are staged"
            ) from None
        log.warning("%s: direct upload refused, staged as %s", there.disk.id, there.disk.staging)
        again = staged(there)
        return again if again.found else again._replace(found=again.target.create())
