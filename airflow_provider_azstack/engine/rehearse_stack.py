"""
Restores on trial on a stack: into a scratch group, read back, looked into, and removed again.

Owns what is asked of the restore's engine, what a scratch group may hold, and the verdict.
Invariants: nothing outside the scratch group is created, changed or removed, and a group that holds
anything but trials of this repository is refused; what was made is removed however the trial ends,
or by the janitor, because its plan is in the repository before the first request that writes.

Without a network no VM is made: a stack starts what it creates, and a second copy of a server in
its own network is an accident. With one, which has to lead nowhere, the VM is made and started.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute, power_state
from airflow_provider_azstack.engine import traces
from airflow_provider_azstack.engine.rehearse_check import checked, failed
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.disks import write_disk
from airflow_provider_azstack.engine.restore.execute import create_vms, opened
from airflow_provider_azstack.engine.restore.plan import plan_restore, require_agreed
from airflow_provider_azstack.engine.restore.records import PlannedDisk, PlannedVm, RestorePlan
from airflow_provider_azstack.engine.restore.request import (
    DYNAMIC,
    NONE,
    Change,
    DiskChange,
    NicChange,
    RestoreRequest,
)
from airflow_provider_azstack.engine.restore.share import keep
from airflow_provider_azstack.engine.restore.standing import look
from airflow_provider_azstack.engine.restore.targets import reader_of
from airflow_provider_azstack.engine.restore.writing import Restore, Tell
from airflow_provider_azstack.errors import IntegrityError, ObjectNotFound, Refused
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import Try
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.repo.verify.rehearsals import (
    PURPOSE,
    Rehearsal,
    RehearsedDisk,
    put,
)

log = logging.getLogger(__name__)

_SHOWN = 5


class Scratch(NamedTuple):
    """
    Where restores are tried on a stack.

    :param group: a resource group of its own, empty.
    :param subscription: its id; default: each VM's own.
    :param subnet: ``group/network/subnet`` or an id, from which no guest reaches anything: VMs are
        made there, and started. Without one, only disks are made.
    :param storage_account: stages uploads, where the stack takes no direct ones.
    """

    group: str
    subscription: str = ""
    subnet: str = ""
    storage_account: str = ""

    def base(self, point: RestorePoint) -> str:
        """Return the id of the group."""
        subscription = self.subscription or point.vm.subscription_id
        return f"/subscriptions/{subscription}/resourceGroups/{self.group}"


def rehearse_on_stack(
    stack: Stack,
    repository: Repository,
    point: RestorePoint,
    scratch: Scratch,
    *,
    purpose: str = PURPOSE,
    tell: Tell = log.info,
    cancel: threading.Event | None = None,
    timer: Callable[[], float] = time.monotonic,
    random: Callable[[], uuid.UUID] = uuid.uuid4,
) -> Rehearsal:
    """
    Restore a point into the scratch group, check it, remove it, and put the evidence.

    :param purpose: what our session says of itself.
    :raises Refused: the group holds something else, or the stack has no room; that says nothing of
        the backup.
    """
    trial = _Trial(stack, repository, point, scratch, random().hex[:8])
    started_at, started = repository.now(), timer()
    session = repository.open_session(purpose, run=trial.run)
    try:
        traces.remove_dead_trials(stack, session)
        disks, problems = trial.tried(session, tell, cancel)
        rehearsal = Rehearsal(
            vm_key=point.vm.key,
            vm=point.vm.name,
            point=point.id,
            taken_at=point.taken_at,
            started_at=started_at,
            seconds=timer() - started,
            disks=disks,
            place=scratch.base(point),
            booted=bool(scratch.subnet) and not problems,
            problems=problems,
        )
        put(repository.records, rehearsal)
    finally:
        session.close()
    return rehearsal


Found = tuple[tuple[RehearsedDisk, ...], tuple[str, ...]]  # the disks, and problems beyond them


class _Trial(NamedTuple):
    """One trial of one restore point."""

    stack: Stack
    repository: Repository
    point: RestorePoint
    scratch: Scratch
    mark: str

    @property
    def run(self) -> str:
        """Whose session and plan it is."""
        return traces.trial_run(self.mark)

    def tried(self, session: Session, tell: Tell, cancel: threading.Event | None) -> Found:
        """Restore, check and remove."""
        if bad := tuple(_unreadable(self.repository, self.point)):
            return bad, ()
        request = _request(self.point, self.scratch, self.mark)
        plan = plan_restore(self.stack, self.repository, request)
        require_agreed(plan, self.stack, self.repository)
        base = self.scratch.base(self.point)
        _require_inside(plan, base)
        named = _named(self.stack, plan, self.scratch)
        require_scratch(self.stack, self.repository, base, named)
        with (
            self._kept(session, plan),
            opened(self.stack, session, plan, tell) as restore,
        ):
            return _checked(restore._replace(cancel=cancel), is_booted=bool(self.scratch.subnet))

    @contextmanager
    def _kept(self, session: Session, plan: RestorePlan) -> Iterator[None]:
        """Let the janitor know what is made, and remove it in the end."""
        keep(session, plan, self.run)
        try:
            yield
        finally:
            left = traces.LeftPlan(plan, (Try(self.run, session.id),))
            traces.remove_trial(self.stack, session, left)


def _unreadable(repository: Repository, point: RestorePoint) -> Iterator[RehearsedDisk]:
    """Yield the disks of which not even a plan can be made."""
    for part in point.images:
        try:
            for _ in ImageReader(repository.image(part.image), repository.reader()).extents():
                pass
        except (IntegrityError, ObjectNotFound) as error:
            yield failed(part.disk_key, part.size_bytes, error)


def _request(point: RestorePoint, scratch: Scratch, mark: str) -> RestoreRequest:
    """Return what is asked of the restore: everything under names that nothing else has."""
    name = traces.trial_name(mark)
    disks = {image.disk_key: DiskChange(name=f"{name}-{image.disk_key}") for image in point.images}
    change = Change(disks=disks)
    if scratch.subnet:
        kind = "/providers/microsoft.network/networkinterfaces/"
        nic = NicChange(
            subnet=scratch.subnet, security_group=NONE, private_address=DYNAMIC, public_address=NONE
        )
        nics = {
            str(body["name"]): nic
            for key, body in point.vm.resources.items()
            if kind in key.lower()
        }
        change = Change(name=name, disks=disks, nics=nics, power_on=True)
    return RestoreRequest(
        vms=(point.vm.key,),
        mode="alternate" if scratch.subnet else "disks",
        point=point.id,
        resource_group=scratch.group,
        subscription_id=scratch.subscription or None,
        disk_kind="managed",  # a page blob would be in an account, which is not the group's
        storage_account=scratch.storage_account or None,
        changes={point.vm.key: change},
    )


def _require_inside(plan: RestorePlan, base: str) -> None:
    ids = [disk.id for vm in plan.vms for disk in vm.disks]
    ids += [resource.id for vm in plan.vms for resource in vm.resources]
    outside = [one for one in ids if not one.lower().startswith(f"{base.lower()}/")]
    if outside or plan.touched:
        raise Refused(f"the trial would touch {', '.join([*outside, *plan.touched][:_SHOWN])}")


def require_scratch(
    stack: Stack, repository: Repository, base: str, named: Collection[str] = ()
) -> None:
    """
    Check that a group holds nothing but trials of this repository.

    :param named: ids of what the user has put there for the trials.
    :raises Refused: it holds something else.
    """
    tries = restores.unsettled(repository)
    trials = {left.plan.id for left in traces.left_plans(stack, repository, tries) if left.is_trial}
    allowed = {one.lower() for one in named}
    others = []
    for body in stack.list(f"{base}/resources"):
        place = str(body.get("id", ""))
        is_named = any(
            place.lower() == one or place.lower().startswith(f"{one}/") for one in allowed
        )
        if (body.get("tags") or {}).get(TAG) not in trials and not is_named:
            others.append(place)
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise Refused(
            f"{base} holds {', '.join(others[:_SHOWN])}{more}: restores are tried in a group of "
            "their own; nothing was touched"
        )


def _named(stack: Stack, plan: RestorePlan, scratch: Scratch) -> list[str]:
    """Return the ids of the network and the account that the user may keep in the group."""
    named = []
    for vm in plan.vms:
        for resource in vm.resources:
            for one in (resource.body.get("properties") or {}).get("ipConfigurations") or ():
                subnet = str((one["properties"].get("subnet") or {}).get("id", ""))
                named.append(subnet.partition("/subnets/")[0])
    if scratch.storage_account:
        for subscription in plan.subscriptions:
            accounts = stack.list(
                f"/subscriptions/{subscription}/providers/Microsoft.Storage/storageAccounts"
            )
            named += [
                str(body["id"])
                for body in accounts
                if str(body.get("name", "")).lower() == scratch.storage_account
            ]
    return [one for one in named if one]


def _checked(restore: Restore, *, is_booted: bool) -> Found:
    disks = [_rehearsed(restore, vm, disk) for vm in restore.plan.vms for disk in vm.disks]
    problems: list[str] = []
    if is_booted and not any(disk.problems for disk in disks):
        problems += _start(restore)
    return tuple(disks), tuple(problem[:2000] for problem in problems)


def _rehearsed(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> RehearsedDisk:
    try:
        write_disk(restore, vm, disk)
        repository = restore.session.repository
        reader = ImageReader(repository.image(disk.image), repository.reader())
        target = look(restore, vm, disk).target
        with reader_of(restore.stack, target, disk.size_bytes) as back:
            allocated = back.allocated(0, disk.size_bytes)
            return checked(disk.key, reader, disk.size_bytes, _reading(back), allocated)
    except (IntegrityError, ObjectNotFound) as error:
        return failed(disk.key, disk.size_bytes, error)


def _reading(disk: BlobDisk) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        disk.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    return read


def _start(restore: Restore) -> Iterator[str]:
    """Make the VMs, which starts them; tell of those that do not run then."""
    for vm, outcome in zip(restore.plan.vms, create_vms(restore), strict=True):
        if outcome.status == "failed":
            yield f"{vm.name}: {outcome.reason}"
            continue
        body = Compute(restore.stack).vm(vm.target, instance_view=True)
        if (state := power_state(body)) != "running":
            yield f"{vm.name}: it is {state or 'in no state'}, not running"
