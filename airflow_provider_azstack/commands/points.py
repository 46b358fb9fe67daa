"""
``airflow azstack points``: what could be restored.

Owns the listing; knows nothing of restoring.
Invariant: only published restore points are shown, and one that cannot be read is an error.
"""

from argparse import Namespace
from typing import Any

from airflow_provider_azstack.commands.connections import repository_hook
from airflow_provider_azstack.commands.console import command, show
from airflow_provider_azstack.model import RestorePoint

_COLUMNS = ("vm", "point", "taken_at", "disks", "disk_bytes", "stored_bytes", "consistency")


@command
def points(args: Namespace) -> None:
    """List restore points of all VMs, or of those called --vm."""
    repository = repository_hook(args).get_conn()
    rows = [_row(point) for point in repository.points() if args.vm in _names(point)]
    show(rows, args.output, _COLUMNS)


def _names(point: RestorePoint) -> set[str]:
    return {"", point.vm.name, point.vm.key, point.vm.id}


def _row(point: RestorePoint) -> dict[str, Any]:
    return {
        "vm": point.vm.name,
        "point": point.id,
        "taken_at": point.taken_at.isoformat(timespec="seconds"),
        "disks": len(point.images),
        "disk_bytes": sum(image.size_bytes for image in point.images),
        "stored_bytes": sum(image.stored_bytes for image in point.images),
        "consistency": point.consistency,
        "policy": point.policy,
        "run": point.run,
        "vm_id": point.vm.id,
        "vm_key": point.vm.key,
    }
