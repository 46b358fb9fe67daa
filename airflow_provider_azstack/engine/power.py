"""
VMs that are stopped for their snapshots, and started again.

Owns the notes that make this survive a kill; knows no snapshots. A note is a snapshot set without
snapshots whose id says what happened: ``<id>.stopping`` before a running VM is stopped,
``<id>.started`` when it runs again. Invariant: a VM that we stop has its first note before; a stop
without its second note is ours to undo, by the next try, the clean-up or the janitor.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine.machines import power_state, vm_key
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ObjectExists,
    SourceError,
)
from airflow_provider_azstack.model import SnapshotSet
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

OFF = {"deallocated", "stopped"}
_STOPPING, _STARTED = ".stopping", ".started"


def interrupted(set_ids: Iterable[str]) -> set[str]:
    """Return the ids of stops of which nobody noted that the VM was started again."""
    ids = list(set_ids)
    begun = {name.removesuffix(_STOPPING) for name in ids if name.endswith(_STOPPING)}
    return begun - {name.removesuffix(_STARTED) for name in ids if name.endswith(_STARTED)}


@contextmanager
def stopped(
    session: Session, compute: Compute, empty: SnapshotSet, earlier: Iterable[str] = ()
) -> Iterator[None]:
    """
    Have a running VM deallocated meanwhile, and started again whatever happens.

    :param empty: a set of the VM without snapshots; its id names this stop.
    :param earlier: interrupted stops of the same VM, which this one makes up for.
    """
    session.put_set(msgspec.structs.replace(empty, id=empty.id + _STOPPING))
    stops = [empty.id, *earlier]
    try:
        compute.deallocate(empty.vm.id)
    except AccessDenied:
        _note_started(session, empty, [empty.id])  # refused: it was never stopped
        raise
    except BaseException:
        _start(session, compute, empty, stops)
        raise
    try:
        yield
    finally:
        _start(session, compute, empty, stops)


def undo(stack: Stack, repository: Repository, notes: Iterable[SnapshotSet]) -> bool:
    """
    Start a VM that interrupted stops left off; tell whether it was off.

    :param notes: all notes of one VM.
    :raises SourceError: it did not start.
    """
    of_vm = {note.id: note for note in notes}
    stops = interrupted(of_vm)
    if not stops:
        return False
    empty = of_vm[min(stops) + _STOPPING]
    compute = Compute(stack)
    session = repository.open_session("start", run=empty.run)
    try:
        body = compute.vm(empty.vm.id, instance_view=True)
        is_off = vm_key(body) == empty.vm.key and power_state(body) in OFF
        if is_off:
            log.warning("%s was stopped for its snapshots: starting it again", empty.vm.id)
            _start(session, compute, empty, stops)
        else:
            _note_started(session, empty, stops)
    finally:
        session.close()
    return is_off


def _start(session: Session, compute: Compute, empty: SnapshotSet, stops: Iterable[str]) -> None:
    try:
        compute.start(empty.vm.id)
    except AzStackError as error:
        raise SourceError(
            f"{empty.vm.id} was stopped for its snapshots and could not be started again "
            f"({error}): start it by hand"
        ) from error
    _note_started(session, empty, stops)


def _note_started(session: Session, empty: SnapshotSet, stops: Iterable[str]) -> None:
    for stop in stops:
        with contextlib.suppress(ObjectExists):  # another process noted it, of the VM as it saw it
            session.put_set(msgspec.structs.replace(empty, id=stop + _STARTED))
