"""
What there is of a disk on the stack, and what is noted of it.

Owns the look at both; makes, writes and deletes nothing but notes.
Invariants: what is noted of one disk is never taken for what is on another one of its name. A disk
of which nothing is noted is taken for half-written only while it is noted that it was begun: else
its notes went by their age, and somebody may have used it for months.
"""

from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.engine.restore.page_blob import Found, is_copy
from airflow_provider_azstack.engine.restore.records import (
    COMPARED,
    COMPLETE,
    Notes,
    PlannedDisk,
    PlannedVm,
)
from airflow_provider_azstack.engine.restore.targets import Target, target_of
from airflow_provider_azstack.engine.restore.writing import Restore
from airflow_provider_azstack.errors import Refused
from airflow_provider_azstack.model import Record
from airflow_provider_azstack.repo import restores


class Standing(NamedTuple):
    """A disk of a plan, where it is written to, and what was found there."""

    restore: Restore
    vm: PlannedVm
    disk: PlannedDisk  # by the way in which it comes into being, which may not be the planned one
    target: Target
    found: Found | None

    @property
    def is_open(self) -> bool:
        """Tell whether it is there, and can still be written."""
        if self.found is None or not self.found.is_open:
            return False
        # What is in a copy is not known before it was compared.
        return not is_copy(self.found.attempt) or COMPARED in self.done()

    @property
    def is_whole(self) -> bool:
        """Tell whether it is there, with everything on it by the way it came into being."""
        return self.found is not None and self.found.is_whole

    def done(self) -> set[str]:
        """
        Return what is noted.

        :raises Refused: what was noted is gone.
        """
        if self.found is None:
            return set()
        noted = self._notes(self.found).done()
        # In this order: the note of the beginning is the first to go.
        if COMPLETE not in noted and not self._is_begun():
            raise Refused(
                f"{self.disk.id} was made by this very restore, whose records are gone by their "
                "age: it is left alone; delete it, or ask for another name"
            )
        return noted

    def begin(self) -> None:
        """Note that the disk is about to be created."""
        restores.begin(self.restore.session, self.restore.plan.id, self.vm.key, self.disk.key)

    def note(self, part: str, record: Record) -> None:
        """Note that a part is done; there must be a disk."""
        assert self.found is not None  # noqa: S101 - callers have looked
        self._notes(self.found).note(part, record)

    def discarded(self) -> "Standing":
        """Delete what is there; return the same disk with nothing in its place."""
        self.target.discard()
        return self._replace(found=None)

    def _is_begun(self) -> bool:
        repository, plan = self.restore.session.repository, self.restore.plan.id
        return restores.is_begun(repository, plan, self.vm.key, self.disk.key)

    def _notes(self, found: Found) -> Notes:
        repository, plan = self.restore.session.repository, self.restore.plan.id
        return Notes(repository, plan, self.vm.key, self.disk.key, found.attempt)


def look(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> Standing:
    """
    Return what is in a disk's place.

    :raises Refused: something is there that this plan did not make.
    """
    target = target_of(restore.stack, restore.accounts, restore.plan.id, disk)
    return Standing(restore, vm, disk, target, target.found())


def staged(standing: Standing) -> Standing:
    """Return the same disk as it is made from a page blob."""
    return look(standing.restore, standing.vm, replace(standing.disk, way="import"))


def look_everywhere(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> Standing:
    """Return what is in a disk's place or, while nothing is, half written where it is staged."""
    there = look(restore, vm, disk)
    if disk.way == "upload" and disk.staging and (there.found is None or there.is_whole):
        half = staged(there)
        return there if half.found is None else half
    return there


def is_complete(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> bool:
    """Tell whether a disk is there, whole, and noted to be."""
    # A disk whose direct upload was refused is made by an import: either way it is the same disk.
    return COMPLETE in look(restore, vm, disk).done()
