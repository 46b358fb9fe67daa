"""
Which snapshot set of a VM counts, and who takes the next one where several streams need it.

Owns the numbers of a VM's sets and the turns; how snapshots are taken is not its business.
Invariant: sets are numbered within a session, and of each number the first that was recorded is the
only one. Turns merely spare snapshots that nobody would use; nothing rests on them but this: with
consistency ``stopped`` only who has the turn touches the VM's power.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.model import Job, SnapshotSet, WorkloadVm
from airflow_provider_azstack.repo.sessions import Session

Covers = Callable[[SnapshotSet], bool]


def is_current(snapshot_set: SnapshotSet, job: Job) -> bool:
    """Tell whether a set was taken under the job's session: no other's images are relied on."""
    return names.is_of_session(snapshot_set.id, job.session)


def covers(vm: WorkloadVm) -> Covers:
    """Return what tells whether a set has exactly the disks that the manifest names."""
    wanted = {(disk.key, disk.unique_id, disk.size_bytes) for disk in vm.disks}

    def has_all(snapshot_set: SnapshotSet) -> bool:
        found = {(s.disk_key, s.unique_id, s.size_bytes) for s in snapshot_set.snapshots}
        return bool(found) and found == wanted

    return has_all


def is_skipped(snapshot_set: SnapshotSet) -> bool:
    """Tell whether a set is the note that the VM ran and had to be stopped, and so was skipped."""
    is_note = not snapshot_set.snapshots and "." not in snapshot_set.id
    return is_note and snapshot_set.consistency == "required_stopped"


def taken_at(snapshot_set: SnapshotSet) -> datetime:
    """Return when the first snapshot of a set was taken."""
    return min(snapshot.taken_at for snapshot in snapshot_set.snapshots)


def newest_first(sets: Iterable[SnapshotSet], vm: WorkloadVm) -> list[SnapshotSet]:
    """Return those sets that have all of the VM's disks."""
    whole = filter(covers(vm), sets)
    return sorted(whole, key=lambda s: (names.set_number(s.id), taken_at(s)), reverse=True)


def next_number(sets: Iterable[SnapshotSet]) -> int:
    """Return the number that the next set of a VM has."""
    return max((names.set_number(s.id) for s in sets), default=0) + 1


def has_turn(session: Session, vm: WorkloadVm, number: int, who: str) -> bool:
    """
    Tell whether ``who`` is to take a set: nobody else was here first.

    The turn stays with whoever had it first, so that its retry has it as well.

    :param who: the workload; the same for every try of it.
    """
    topic = f"set-{number}"
    if session.leave_note(vm.key, topic, who.encode()):
        return True
    return session.note(vm.key, topic) == who.encode()
