"""
``azstack flags``: restore points that look suspicious.

Owns the list and the taking away of a flag; what is suspicious the engine decides.
Invariant: whatever is done here, no restore point changes or goes.
"""

from argparse import ArgumentParser, Namespace

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import find_point
from airflow_provider_azstack.console.present import say, show
from airflow_provider_azstack.errors import ConfigurationError, ObjectNotFound

_COLUMNS = ("vm", "point", "taken_at", "reason")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", nargs="?", choices=("list", "remove"), default="list")
    parser.add_argument("vm", nargs="?", default="", help="name, key or id, for remove")
    parser.add_argument("point", nargs="?", default="", help="whose flag is to be removed")
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """List flagged points, or say that one is as it should be."""
    from airflow_provider_azstack.repo.points import flags  # noqa: PLC0415 - loads cryptography

    repository = open_repository(args)
    if args.action == "remove":
        if not args.point:
            raise ConfigurationError("which point? 'azstack flags' lists them with their VMs")
        point = find_point(repository, args.vm, args.point)
        try:
            flags.remove_flag(repository, point.vm.key, point.id)
        except ObjectNotFound:
            raise ConfigurationError(f"point {point.id} of {point.vm.name} has no flag") from None
        say(f"{point.id} of {point.vm.name} counts as normal from now on")
        return 0
    flagged = flags.flagged(repository)
    rows = [
        {
            "vm": point.vm.name,
            "point": point.id,
            "taken_at": point.taken_at,
            "reason": "; ".join(flags.reasons(repository, point.vm.key, point.id)),
            "vm_key": point.vm.key,
        }
        for point in repository.points()
        if (point.vm.key, point.id) in flagged
    ]
    show(rows, args.output, _COLUMNS, nothing="no restore point looks suspicious")
    return 0
