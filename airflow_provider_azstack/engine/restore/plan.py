"""
Plan a restore: from a request to everything that will be sent, or to all reasons not to.

Owns the choice of restore points, the plan's sums, and the order of its checks; what becomes of one
VM is ``vm_plan``'s business.
Invariant: planning writes nothing. Whatever can be refused is refused here, each reason in one
line, all of them at once, before the first byte is written.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.offered import check_versions
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.machines import GIB, Body, resource_type
from airflow_provider_azstack.engine.restore.place import Case, Place
from airflow_provider_azstack.engine.restore.records import (
    Permission,
    PlannedVm,
    RestorePlan,
)
from airflow_provider_azstack.engine.restore.request import LATEST, RestoreRequest
from airflow_provider_azstack.engine.restore.survey import Survey, scope_of
from airflow_provider_azstack.engine.restore.vm_plan import plan_vm
from airflow_provider_azstack.errors import AccessDenied, Refused, SourceGone, UnsupportedStack
from airflow_provider_azstack.model import RestorePoint, to_json
from airflow_provider_azstack.repo.points.namesakes import told_apart
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.wording import did_you_mean

_COMPUTE, _NETWORK = "Microsoft.Compute", "Microsoft.Network"
_DISK_ACTIONS = ("disks/read", "disks/write", "disks/beginGetAccess/action",
                 "disks/endGetAccess/action")  # fmt: skip

# A VM that ran is started again if it comes to nothing.
_REPLACING = ("read", "write", "deallocate/action", "start/action")
_TOLD = 20  # refusals in one error


def plan_restore(stack: Stack, repository: Repository, request: RestoreRequest) -> RestorePlan:
    """
    Return the plan of a restore, with every reason not to carry it out in ``refusals``.

    :raises Tampered: a restore point cannot be read.
    """
    chosen, unknown = choose_points(repository, request)
    next(iter(stack.subscriptions()), None)  # a wrong secret is one error, not one a resource
    plan_id = _plan_id(repository, stack, request, [point for _, point in chosen])
    subscriptions = {point.vm.subscription_id for _, point in chosen}
    subscriptions |= {request.subscription_id} if request.subscription_id else set()
    with Accounts(stack, subscriptions) as accounts:
        survey = Survey(stack, accounts)
        for line in unknown:
            survey.refuse(line)
        if request.salvage:
            survey.remark(
                "salvage: what the repository has lost becomes zeros, and is listed at the end"
            )
        places = {vm: Place.of(request, vm, point, stack.name, survey) for vm, point in chosen}
        vms = [
            plan_vm(Case(survey, repository, request, request.change(vm), point, place, plan_id))
            for (vm, point), place in zip(chosen, places.values(), strict=True)
        ]
        permissions = _permissions(vms)
        _check_together(survey, vms, places, permissions)
        _check_versions(survey, {place.subscription for place in places.values()})
    write_bytes = sum(disk.data_bytes for vm in vms for disk in vm.disks)
    return RestorePlan(
        id=plan_id,
        made_at=repository.now(),
        repository=repository.id,
        stack=stack.name,
        subscriptions=tuple(sorted({place.subscription for place in places.values()})),
        request=request,
        vms=tuple(vms),
        permissions=permissions,
        touched=tuple(sorted({t for vm in vms for t in _touched(vm, survey)})),
        write_bytes=write_bytes,
        expected_seconds=_expected_seconds(write_bytes, [point for _, point in chosen]),
        refusals=tuple(survey.refusals),
        remarks=tuple(survey.remarks),
    )


def require_agreed(plan: RestorePlan, stack: Stack, repository: Repository) -> None:
    """
    Check that a plan may be carried out here.

    :raises Refused: it has refusals, or was made for another stack or repository.
    """
    if plan.refusals:
        more = len(plan.refusals) - _TOLD
        told = [*plan.refusals[:_TOLD], *([f"and {more} more"] if more > 0 else [])]
        raise Refused(f"the plan is refused: {'; '.join(told)}")
    if plan.stack != stack.name:
        raise Refused(f"the plan is for stack {plan.stack}, this is {stack.name}: plan again")
    if plan.repository != repository.id:
        raise Refused(f"the plan is of repository {plan.repository}, this is {repository.id}")


def choose_points(
    repository: Repository, request: RestoreRequest
) -> tuple[list[tuple[str, RestorePoint]], list[str]]:
    """Return a restore point for each VM of the request, and what is unknown, in lines."""
    points = repository.points()
    chosen: list[tuple[str, RestorePoint]] = []
    refusals: list[str] = []
    for vm in request.vms:
        names = {vm.lower()}
        of_vm = [p for p in points if {p.vm.name.lower(), p.vm.key, p.vm.id.lower()} & names]
        found = _newest(of_vm, request.point, request.at)
        if not of_vm:
            meant = did_you_mean(vm, sorted({point.vm.name for point in points}))
            refusals.append(f"there is no restore point of a VM {vm!r}{meant}")
        elif several := told_apart(vm, of_vm):
            refusals.append(several)
        elif found is None:
            wanted = f"up to {request.at.isoformat()}" if request.at else repr(request.point)
            refusals.append(f"VM {vm!r} has no restore point {wanted}; newest: {of_vm[-1].id}")
        else:
            chosen.append((vm, found))
    return chosen, refusals


def _newest(points: Sequence[RestorePoint], point: str, at: datetime | None) -> RestorePoint | None:
    """Return the last of the points, oldest first, that is meant."""
    meant = [p for p in points if point in {LATEST, p.id} and (at is None or p.taken_at <= at)]
    return meant[-1] if meant else None


def _plan_id(
    repository: Repository, stack: Stack, request: RestoreRequest, points: list[RestorePoint]
) -> str:
    """Return the same id for the same request: so a second try knows what the first one made."""
    digest = hashlib.blake2s(to_json(request), digest_size=8)
    for text in (repository.id, stack.name, *(f"{point.vm.key} {point.id}" for point in points)):
        digest.update(f"\n{text}".encode())
    return digest.hexdigest()


def _permissions(vms: list[PlannedVm]) -> tuple[Permission, ...]:
    needed: dict[tuple[str, str], None] = {}
    for vm in vms:
        for resource_id, actions in _actions(vm):
            for action in actions:
                needed[scope_of(resource_id), action] = None
    return tuple(Permission(scope=scope, action=action) for scope, action in needed)


def _actions(vm: PlannedVm) -> list[tuple[str, list[str]]]:
    """Return what is done to which resource."""
    on_disks = [f"{_COMPUTE}/{action}" for action in _DISK_ACTIONS]
    found = [(disk.id, on_disks) for disk in vm.disks if disk.kind == "managed"]
    for resource in vm.resources:
        kind = resource_type(resource.id)
        namespace, _, name = kind.partition("/")
        shown = {"microsoft.compute": _COMPUTE, "microsoft.network": _NETWORK}[namespace]
        name = _CASED.get(name, name)
        found.append((resource.id, [f"{shown}/{name}/read", f"{shown}/{name}/write"]))
        found += [(joined, [action]) for joined, action in _joins(resource.body)]
    if vm.attach_to:
        actions = [f"{_COMPUTE}/virtualMachines/read", f"{_COMPUTE}/virtualMachines/write"]
        found.append((vm.attach_to, actions))
    if vm.occupant:
        found.append((vm.target, [f"{_COMPUTE}/virtualMachines/{a}" for a in _REPLACING]))
        places = [disk.place for disk in vm.replaces if disk.place.startswith("/")]
        snapshots = [f"{_COMPUTE}/snapshots/read", f"{_COMPUTE}/snapshots/write"]
        found += [(place, snapshots) for place in places]
    elif vm.target and not vm.power_on:
        found.append((vm.target, [f"{_COMPUTE}/virtualMachines/deallocate/action"]))
    return found


_CASED = {
    "virtualmachines": "virtualMachines",
    "virtualmachines/extensions": "virtualMachines/extensions",
    "availabilitysets": "availabilitySets",
    "networkinterfaces": "networkInterfaces",
    "publicipaddresses": "publicIPAddresses",
}


def _joins(body: Body) -> list[tuple[str, str]]:
    properties = body.get("properties") or {}
    found = []
    if group := (properties.get("networkSecurityGroup") or {}).get("id"):
        found.append((group, f"{_NETWORK}/networkSecurityGroups/join/action"))
    for configuration in properties.get("ipConfigurations") or ():
        inner = configuration["properties"]
        found.append((inner["subnet"]["id"], f"{_NETWORK}/virtualNetworks/subnets/join/action"))
        if address := (inner.get("publicIPAddress") or {}).get("id"):
            found.append((address, f"{_NETWORK}/publicIPAddresses/join/action"))
    nics = (properties.get("networkProfile") or {}).get("networkInterfaces") or ()
    return found + [(nic["id"], f"{_NETWORK}/networkInterfaces/join/action") for nic in nics]


def _touched(vm: PlannedVm, survey: Survey) -> list[str]:
    """Return what is there already and will be changed."""
    made = {resource.id.lower() for resource in vm.resources}
    addresses = [
        joined
        for resource in vm.resources
        for joined, action in _joins(resource.body)
        if action.endswith("publicIPAddresses/join/action") and joined.lower() not in made
    ]
    touched = [address for address in addresses if survey.find(address)]
    if vm.occupant:
        touched += [vm.target, *(disk.place for disk in vm.replaces if disk.place)]
    return touched + ([vm.attach_to] if vm.attach_to else [])


def _check_together(
    survey: Survey,
    vms: list[PlannedVm],
    places: dict[str, Place],
    permissions: tuple[Permission, ...],
) -> None:
    """Check what only shows when all VMs are seen together."""
    targets = [disk.id.lower() for vm in vms for disk in vm.disks]
    targets += [resource.id.lower() for vm in vms for resource in vm.resources]
    for target, count in Counter(targets).items():
        # Several VMs may share one availability set that has to be made again.
        if count > 1 and "/availabilitysets/" not in target:
            survey.refuse(f"{count} things would be called {target}: give them different names")
    key = [(places_of.subscription, places_of.location) for places_of in places.values()]
    together = sorted(zip(key, vms, strict=True), key=lambda pair: pair[0])
    for (subscription, location), group in groupby(together, key=lambda pair: pair[0]):
        wanted = _wanted(survey, [vm for _, vm in group], subscription, location)
        survey.check_quota(subscription, location, wanted)
    survey.check_permissions((p.scope, p.action) for p in permissions)


def _wanted(
    survey: Survey, vms: list[PlannedVm], subscription: str, location: str
) -> dict[str, int]:
    """Return what the subscription must have room for, by the names that stacks count by."""
    wanted: Counter[str] = Counter()
    sizes = survey.sizes(subscription, location) or {}
    for vm in vms:
        disks = [d for d in vm.disks if d.kind == "managed" and not survey.find(d.id)]
        for disk in disks:
            family = disk.sku.partition("_")[0].lower()
            wanted[f"{family}disksizegib"] += -(-disk.size_bytes // GIB)
            wanted[f"{family}diskcount"] += 1
        wanted["snapshotcount"] += sum(disk.place.startswith("/") for disk in vm.replaces)
        body = next((r.body for r in vm.resources if r.id == vm.target), None)
        if body is not None and not survey.find(vm.target):
            size = sizes.get(body["properties"]["hardwareProfile"]["vmSize"].lower(), {})
            wanted["virtualmachines"] += 1
            wanted["cores"] += int(size.get("numberOfCores", 0))
    return wanted


def _check_versions(survey: Survey, subscriptions: set[str]) -> None:
    for subscription in sorted(subscriptions):
        try:
            check_versions(survey.stack, subscription)
        except AccessDenied as error:
            # To list providers takes a right on the whole subscription, which who may restore into
            # a group need not have: github.com/hashicorp/terraform-provider-azurerm/issues/3483.
            survey.remark(f"whether the stack speaks our versions cannot be told: {error}")
        except (UnsupportedStack, SourceGone) as error:
            survey.refuse(str(error))


def _expected_seconds(write_bytes: int, points: list[RestorePoint]) -> float | None:
    """Return how long writing takes at the pace at which these disks were last read."""
    images = [image for point in points for image in point.images]
    read, seconds = sum(i.read_bytes for i in images), sum(i.seconds for i in images)
    return round(write_bytes * seconds / read, 1) if read and seconds else None
