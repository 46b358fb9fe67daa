"""
``azstack points``: what could be restored.

Owns the listing, and which VM or point a user means; knows nothing of restoring.
Invariant: only published restore points are shown, and one that cannot be read is an error.
"""

import re
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import show
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.points.namesakes import told_apart
from airflow_provider_azstack.wording import did_you_mean

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

LATEST = "latest"
_COLUMNS = ("vm", "point", "taken_at", "disks", "disk_bytes", "stored_bytes", "consistency")
_VM_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--vm", default="", help="only VMs of this name, key or id")
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """List restore points of all VMs, or of those called --vm."""
    return list_points(open_repository(args), args.vm, args.output)


def list_points(repository: "Repository", vm: str, output: str) -> int:
    """Print the restore points of all VMs, or of those called ``vm``."""
    points = points_of(repository, vm)
    nothing = "" if points else none_of(repository, vm) if vm else "no restore point yet"
    show([point_facts(point) for point in points], output, _COLUMNS, nothing=nothing)
    return 0


def is_vm_key(vm: str) -> bool:
    """Tell a VM's key from its name or id."""
    return _VM_KEY.fullmatch(vm) is not None


def points_of(repository: "Repository", vm: str = "") -> list[RestorePoint]:
    """Return the restore points of all VMs, or of those of a name, key or id, oldest first."""
    if is_vm_key(vm):
        return repository.points(vm)
    asked = vm.lower()  # as on the stack, where case does not count
    return [
        point
        for point in repository.points()
        if asked in {"", point.vm.name.lower(), point.vm.id.lower()}
    ]


def none_of(repository: "Repository", vm: str) -> str:
    """Return the remark that a VM has no restore point, with names that were probably meant."""
    names = {point.vm.name for point in repository.points()}
    return f"no restore point of a VM {vm!r}{did_you_mean(vm, sorted(names), most=3)}"


def find_point(repository: "Repository", vm: str, point_id: str = LATEST) -> RestorePoint:
    """
    Return the one restore point that is meant.

    :param vm: the VM's name, key or id.
    :param point_id: or the beginning of it, which tells the time.
    :raises ConfigurationError: there is none, or the name is that of several VMs.
    """
    points = points_of(repository, vm)
    if not points:
        raise ConfigurationError(f"{none_of(repository, vm)}; 'azstack points' lists all")
    if several := told_apart(vm, points):
        raise ConfigurationError(several)
    if point_id == LATEST:
        return points[-1]
    meant = [point for point in points if point.id.startswith(point_id)]
    meant = [point for point in meant if point.id == point_id] or meant
    if len(meant) != 1:
        found = f"{len(meant)} restore points that begin with" if meant else "no restore point"
        raise ConfigurationError(
            f"VM {vm!r} has {found} {point_id!r}; its newest is {points[-1].id}"
        )
    return meant[0]


def point_facts(point: RestorePoint) -> dict[str, Any]:
    """Return what a list says of a restore point."""
    return {
        "vm": point.vm.name,
        "point": point.id,
        "taken_at": point.taken_at,
        "disks": len(point.images),
        "disk_bytes": sum(image.size_bytes for image in point.images),
        "stored_bytes": sum(image.stored_bytes for image in point.images),
        "consistency": point.consistency,
        "policy": point.policy,
        "run": point.run,
        "vm_id": point.vm.id,
        "vm_key": point.vm.key,
    }
