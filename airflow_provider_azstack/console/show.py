"""
``azstack show``: one restore point.

Owns what is said of it; knows nothing of restoring.
Invariant: as JSON it is the whole published record, so nothing in a repository is hidden.
"""

from argparse import ArgumentParser, Namespace

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import LATEST, find_point, point_facts
from airflow_provider_azstack.console.present import show, show_one
from airflow_provider_azstack.model import RestorePoint, to_plain

_DISKS = ("disk", "name", "kind", "size_bytes", "changes_known", "changed_bytes", "stored_bytes")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("vm", help="name, key or id")
    parser.add_argument(
        "point", nargs="?", default=LATEST, help="its id, or how it begins; default: the latest"
    )
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Print the point's facts and its disks, or the whole record."""
    point = find_point(open_repository(args), args.vm, args.point)
    if args.output == "json":
        show_one(to_plain(point), args.output)
        return 0
    vm = point.vm
    facts = {
        **point_facts(point),
        "published_at": point.published_at,
        "previous": point.previous or "none",
        "stack": point.stack,
        "place": f"{vm.resource_group} in {vm.location}",
        "size": vm.size,
        "os": vm.os_type,
        "power": vm.power_state,
        "left_out": [disk.name for disk in vm.excluded],
    }
    show_one(facts, args.output)
    show(_disks(point), args.output, _DISKS, title="disks")
    return 0


def _disks(point: RestorePoint) -> list[dict[str, object]]:
    names = {disk.key: disk.name for disk in point.vm.disks}
    return [
        {
            "disk": image.disk_key,
            "name": names.get(image.disk_key, ""),
            "kind": image.snapshot.kind,
            "size_bytes": image.size_bytes,
            "changes_known": image.changes_known,
            "changed_bytes": image.changed_bytes,
            "stored_bytes": image.stored_bytes,
        }
        for image in point.images
    ]
