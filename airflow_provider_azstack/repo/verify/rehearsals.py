"""
The evidence of rehearsals: ``rehearsals/<vm>/<id>``, what was restored on trial, and how it went.

Owns those records; knows not how anything is rehearsed.
Invariant: records are only added, failures as well as successes.
"""

from collections.abc import Iterator

from airflow_provider_azstack.model import DiskKey, Moment, Record, Size, Slug, Text, VmKey
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import Records

PREFIX = "rehearsals/"
PURPOSE = "rehearsal"  # of their sessions


class RehearsedDisk(Record, frozen=True, kw_only=True):
    """One disk, restored on trial."""

    disk_key: DiskKey
    size_bytes: Size
    data_bytes: Size  # that were written, read back and compared
    digest: Text  # SHA-256 over every stretch of data: its offset, 8 bytes big-endian, its bytes
    file_systems: tuple[Text, ...]  # what was found, and how many files could be looked at
    problems: tuple[Text, ...]


class Rehearsal(Record, frozen=True, kw_only=True):
    """One restore point, restored on trial."""

    vm_key: VmKey
    vm: Text
    point: Slug
    taken_at: Moment
    started_at: Moment
    seconds: float
    disks: tuple[RehearsedDisk, ...]
    place: Text = ""  # id of the scratch group on a stack; nothing: a directory
    booted: bool = False  # a VM was made of the disks, and started
    problems: tuple[Text, ...] = ()  # beyond the disks: the VM did not start

    @property
    def is_good(self) -> bool:
        """Tell whether every disk came back whole, and the VM if it was to."""
        return not self.problems and not any(disk.problems for disk in self.disks)


def put(records: Records, rehearsal: Rehearsal) -> str:
    """Add evidence and return its object name."""
    name = f"{PREFIX}{rehearsal.vm_key}/{records.keys.random(ID_BYTES).hex()}"
    records.put(name, rehearsal)
    return name


def rehearsals(records: Records, vm_key: str = "") -> Iterator[Rehearsal]:
    """Yield the evidence of all VMs, or of one, in no order."""
    return records.all(f"{PREFIX}{vm_key}/" if vm_key else PREFIX, Rehearsal)
