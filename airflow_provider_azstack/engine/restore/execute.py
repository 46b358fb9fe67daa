"""
Carry out a restore's plan: the disks, then what belongs to each VM, then the VM.

Owns the order, what counts as done, and taking back what a failed try made; how disks are written
is not its business, and why a VM failed it tells its caller, not the log.
Invariants: a VM is created only from disks that are noted as complete. What exists and does not
carry this plan's mark is never changed, except a VM that the plan names to get disks. Doing it
again changes nothing that is done.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal, NamedTuple

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.machines import Body
from airflow_provider_azstack.engine.restore import bodies, replace
from airflow_provider_azstack.engine.restore.disks import (
    discard_unfinished,
    first_use,
    write_disks,
)
from airflow_provider_azstack.engine.restore.plan import require_agreed
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    Notes,
    PartDone,
    PlannedDisk,
    PlannedResource,
    PlannedVm,
    RestorePlan,
    disk_prefix,
    each_disk,
    lost_ranges,
)
from airflow_provider_azstack.engine.restore.standing import is_complete
from airflow_provider_azstack.engine.restore.writing import Restore, Tell
from airflow_provider_azstack.errors import AzStackError, Refused, SessionLost, SourceError
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of one VM of a plan."""

    vm: str
    target: str  # id of the VM, or of the disks
    status: Literal["done", "failed"]
    reason: str
    lost: list[str]  # what the repository has lost, in lines: it is zero now


def carry_out(stack: Stack, session: Session, plan: RestorePlan, tell: Tell) -> list[Outcome]:
    """
    Do everything that a plan says, and return how each VM fared; one that fails stops no other.

    :raises Refused: the plan has refusals, or is for another stack or repository.
    """
    require_agreed(plan, stack, session.repository)
    with opened(stack, session, plan, tell) as restore:
        why_not = prepare_vms(restore)
        disks = [(vm, disk) for vm, disk in each_disk(plan) if vm.key not in why_not]
        for vm, disk, error in write_disks(restore, disks):
            told = [why_not[vm.key]] if vm.key in why_not else []
            why_not[vm.key] = "; ".join([*told, f"{disk.key}: {error}"])
        return create_vms(restore, why_not)


def prepare_vms(restore: Restore) -> dict[str, str]:
    """
    Stop the VMs whose disks are replaced, and take safety snapshots.

    Return, by VM key, why a VM could not be prepared, whose disks are not to be written then; it
    stops no other.
    """
    why_not = {}
    for vm in restore.plan.vms:
        try:
            if vm.occupant:
                replace.prepare(restore, vm)
        except AzStackError as error:
            why_not[vm.key] = str(error)
    return why_not


def discard(stack: Stack, session: Session, plan: RestorePlan) -> list[str]:
    """
    Delete the disks of a plan that are not complete, and return their places.

    A VM that was stopped for its disks to be replaced, and still has the old ones, runs again.

    :raises SourceError: one of those does not run again; the disks are deleted all the same.
    """
    with opened(stack, session, plan, log.info) as restore:
        stuck = [line for vm in plan.vms if vm.occupant and (line := _stuck(restore, vm))]
        try:
            gone = discard_unfinished(restore, each_disk(plan))
        except AzStackError:
            for line in stuck:
                log.error("%s", line)  # noqa: TRY400 - the other error is raised
            raise
    if stuck:
        raise SourceError("; ".join(stuck))
    return gone


def _stuck(restore: Restore, vm: PlannedVm) -> str:
    """Let a VM that was stopped for nothing run again; return why that failed, or nothing."""
    try:
        replace.give_up(restore, vm)
    except AzStackError as error:
        return str(error)
    return ""


@contextmanager
def opened(stack: Stack, session: Session, plan: RestorePlan, tell: Tell) -> Iterator[Restore]:
    """Give what a plan is carried out with."""
    with Accounts(stack, plan.subscriptions) as accounts:
        yield Restore(stack, accounts, session, plan, tell)


def create_vms(
    restore: Restore, why_not: Mapping[str, str] = MappingProxyType({})
) -> list[Outcome]:
    """
    Create each VM whose disks are complete; return how each fared.

    :param why_not: by VM key, what went wrong with it before this.
    """
    outcomes = []
    for vm in restore.plan.vms:
        try:
            target = create_vm(restore, vm)
        except AzStackError as error:
            reason, before = str(error), why_not.get(vm.key, "")
            if before not in reason:
                reason = f"{reason}: {before}"
            reason += _given_up(restore, vm, error)
            outcomes.append(Outcome(vm.name, vm.target or vm.attach_to, "failed", reason, []))
        else:
            outcomes.append(Outcome(vm.name, target, "done", "", _lost(restore, vm)))
    return outcomes


def _lost(restore: Restore, vm: PlannedVm) -> list[str]:
    """Return what a salvage had to leave out, in lines; the repository keeps all of it."""
    if not restore.plan.request.salvage:
        return []
    repository = restore.session.repository
    return [
        f"{disk.key}: {lost.length} bytes at {lost.offset} are lost, and zero now: {lost.reason}"
        for disk in vm.disks
        for lost in lost_ranges(repository, disk_prefix(restore.plan.id, vm.key, disk.key))
    ]


def _given_up(restore: Restore, vm: PlannedVm, error: AzStackError) -> str:
    """Let a VM that was stopped for nothing run again; return what to add to the reason."""
    if not vm.occupant or isinstance(error, SessionLost):
        return ""
    try:
        line = replace.give_up(restore, vm)
    except AzStackError as stuck:
        line = str(stuck)
    return f"; {line}" if line else ""


def create_vm(restore: Restore, vm: PlannedVm) -> str:
    """
    Create a VM, or attach its disks, once they are complete; return where they are now.

    :raises Refused: a disk is not complete, or something of another's is in the way.
    """
    missing = [disk.name for disk in vm.disks if not is_complete(restore, vm, disk)]
    if missing:
        if vm.occupant:
            replace.check(restore, vm)  # then that is the reason
        raise Refused(f"disks {', '.join(missing)} of {vm.name} are not complete")
    if vm.occupant:
        replace.put_in(restore, vm)
        return vm.target
    if vm.attach_to:
        _attach(restore, vm)
        return vm.attach_to
    if not vm.target:
        _use(restore, vm, vm.disks)
        return ", ".join(disk.id for disk in vm.disks)
    _create(restore, vm)
    _settle_power(restore, vm)
    restore.tell(f"{vm.name}: restored as {vm.target}")
    return vm.target


def _create(restore: Restore, vm: PlannedVm) -> None:
    """Create what is not there; take back what this try made when it fails before the VM is."""
    if restore.stack.find(vm.target) is None:
        _use(restore, vm, vm.disks)
    made: list[str] = []
    try:
        for resource in vm.resources:
            _ensure(restore, resource, made)
    except BaseException:
        if not _is_usable(restore.stack, vm.target):
            _take_back(restore, made)
        raise


def _use(restore: Restore, vm: PlannedVm, disks: Iterable[PlannedDisk]) -> None:
    for disk in disks:
        first_use(restore, vm, disk)


def _ensure(restore: Restore, resource: PlannedResource, made: list[str]) -> None:
    there = restore.stack.find(resource.id)
    is_ours = there is None or (there.get("tags") or {}).get(bodies.TAG) == restore.plan.id
    if not is_ours and "/extensions/" not in resource.id:  # those are the VM's, which is ours
        raise Refused(f"{resource.id} exists and is not of this restore: plan again")
    if there is not None and _state(there) == "succeeded":
        return
    if there is None:
        made.append(resource.id)  # before: its answer may get lost
    restore.stack.put(resource.id, resource.body)


def _take_back(restore: Restore, made: list[str]) -> None:
    for resource_id in reversed(made):
        try:
            restore.stack.delete(resource_id)
        except AzStackError as error:
            log.warning("%s was made for nothing and is left: %s", resource_id, error)


def _is_usable(stack: Stack, vm_id: str) -> bool:
    try:
        found = stack.find(vm_id)
    except AzStackError:
        return True  # nobody knows: then nothing is deleted
    return found is not None and _state(found) == "succeeded"


def _settle_power(restore: Restore, vm: PlannedVm) -> None:
    """Stop the VM unless it shall run, once: a stack starts what it creates."""
    body = Compute(restore.stack).vm(vm.target)
    vm_id = str((body.get("properties") or {}).get("vmId"))
    notes = Notes(restore.session.repository, restore.plan.id, vm.key, "vm", vm_id)
    if COMPLETE in notes.done():
        return
    if not vm.power_on:
        Compute(restore.stack).deallocate(vm.target)
    notes.note(COMPLETE, PartDone(bytes=0))


def _attach(restore: Restore, vm: PlannedVm) -> None:
    body = Compute(restore.stack).vm(vm.attach_to)
    there = ((body.get("properties") or {}).get("storageProfile") or {}).get("dataDisks") or []
    places = {bodies.place_of(entry) for entry in there}
    luns = {int(entry["lun"]) for entry in there}
    wanted = [entry for entry in vm.entries if bodies.place_of(entry) not in places]
    for entry in wanted:
        if entry["lun"] in luns:
            raise Refused(f"LUN {entry['lun']} of {vm.attach_to} was taken meanwhile: plan again")
    if wanted:
        asked = {bodies.place_of(entry) for entry in wanted}
        _use(restore, vm, [disk for disk in vm.disks if disk.id.lower() in asked])
        restore.stack.put(vm.attach_to, bodies.with_disks(body, wanted))


def _state(body: Body) -> str:
    return str((body.get("properties") or {}).get("provisioningState", "")).lower()
