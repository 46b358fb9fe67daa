"""
``azstack rehearse``: restore on trial, before it is needed.

Owns the arguments and the report; the engine tries, and writes the evidence down.
Invariant: state 0 means that every disk that was tried came back whole.
"""

from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import find_point
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show
from airflow_provider_azstack.console.progress import progress_bar
from airflow_provider_azstack.console.stacks import add_stack, open_stack
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.model import RestorePoint
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.verify.rehearsals import Rehearsal

_COLUMNS = ("vm", "point", "started_at", "seconds", "disks", "data_bytes", "verdict")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scratch", metavar="DIR", help="has room for the largest disk's data")
    where.add_argument(
        "--scratch-group", metavar="GROUP", help="of a stack: empty, for these trials only"
    )
    parser.add_argument(
        "--subnet",
        metavar="GROUP/NETWORK/SUBNET",
        default="",
        help="with a group: where VMs are started, and reach nothing; default: only disks are made",
    )
    parser.add_argument(
        "--storage-account", default="", help="with a group: stages uploads, on older stacks"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--vm", help="the newest point of this VM; a name, key or id")
    which.add_argument(
        "--vms", type=int, default=1, metavar="N", help="how many that are due; default: 1"
    )
    which.add_argument("--list", action="store_true", help="only list the evidence so far")
    add_repository(parser)
    add_stack(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Try restore points; the state is 1 when one of them did not come back whole."""
    from airflow_provider_azstack.engine.rehearse import due  # noqa: PLC0415 - zstandard
    from airflow_provider_azstack.repo.verify.rehearsals import rehearsals  # noqa: PLC0415

    with closing(open_repository(args)) as repository:
        if args.list:
            found = sorted(rehearsals(repository.records), key=lambda one: one.started_at)
        else:
            _require_sense(args)
            points = [find_point(repository, args.vm)] if args.vm else due(repository)[: args.vms]
            found = _tried(args, repository, points)
    nothing = "no rehearsal yet" if args.list else "no restore point yet"
    show([_facts(one) for one in found], args.output, _COLUMNS, nothing=nothing)
    for one in found if not args.list else ():
        _tell(one)
    return DONE if args.list or all(one.is_good for one in found) else PARTLY


def _require_sense(args: Namespace) -> None:
    if not args.scratch_group and not args.scratch:
        raise ConfigurationError("where to? Give --scratch a directory, or --scratch-group")
    if args.scratch and not Path(args.scratch).is_dir():
        raise ConfigurationError(f"--scratch: {args.scratch} is no directory: make it")
    if args.vms < 1:  # that none came back bad would be no success
        raise ConfigurationError("--vms is 1 or more")
    if (args.subnet or args.storage_account) and not args.scratch_group:
        raise ConfigurationError("--subnet and --storage-account go with --scratch-group")


def _tried(
    args: Namespace, repository: "Repository", points: "list[RestorePoint]"
) -> "list[Rehearsal]":
    from airflow_provider_azstack.engine.rehearse_stack import (  # noqa: PLC0415 - heavy
        Scratch,
        rehearse_on_stack,
    )

    if args.scratch:
        return [_rehearsed(repository, point, Path(args.scratch)) for point in points]
    scratch = Scratch(args.scratch_group, subnet=args.subnet, storage_account=args.storage_account)
    with open_stack(args) as stack:
        return [
            rehearse_on_stack(
                stack, repository, point, scratch, tell=lambda line: say(escape(line))
            )
            for point in points
        ]


def _rehearsed(repository: "Repository", point: "RestorePoint", scratch: Path) -> "Rehearsal":
    from airflow_provider_azstack.engine.rehearse import rehearse  # noqa: PLC0415 - zstandard

    size_bytes = sum(image.size_bytes for image in point.images)
    with progress_bar(point.vm.name, size_bytes) as advance:
        return rehearse(repository, point, scratch, advance=advance)


def _tell(rehearsal: "Rehearsal") -> None:
    vm = escape(rehearsal.vm)
    for disk in rehearsal.disks:
        for text in disk.file_systems:
            say(f"{vm} {disk.disk_key} {escape(text)}")
        for text in disk.problems:
            say(f"[red]problem:[/] {vm} {disk.disk_key} {escape(text)}")
    for text in rehearsal.problems:
        say(f"[red]problem:[/] {vm} {escape(text)}")


def _facts(rehearsal: "Rehearsal") -> dict[str, Any]:
    return {
        "vm": rehearsal.vm,
        "vm_key": rehearsal.vm_key,
        "point": rehearsal.point,
        "taken_at": rehearsal.taken_at,
        "started_at": rehearsal.started_at,
        "seconds": round(rehearsal.seconds, 1),
        "disks": len(rehearsal.disks),
        "data_bytes": sum(disk.data_bytes for disk in rehearsal.disks),
        "place": rehearsal.place,
        "booted": rehearsal.booted,
        "verdict": "good" if rehearsal.is_good else "bad",
        "digests": {disk.disk_key: disk.digest for disk in rehearsal.disks},
        "file_systems": {disk.disk_key: list(disk.file_systems) for disk in rehearsal.disks},
        "problems": {
            **{disk.disk_key: list(disk.problems) for disk in rehearsal.disks},
            **({"vm": list(rehearsal.problems)} if rehearsal.problems else {}),
        },
    }
