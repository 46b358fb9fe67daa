"""
``azstack hold``: restore points that nobody may forget.

Owns the commands; what a hold is, the repository says.
Invariant: a hold is lifted only by naming its point.
"""

from argparse import ArgumentParser, Namespace

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import find_point
from airflow_provider_azstack.console.present import DONE, say, show
from airflow_provider_azstack.errors import ConfigurationError

_COLUMNS = ("vm_key", "point", "since", "reason")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    one = actions.add_parser("list", help="list all holds")
    add_output(one)
    add_repository(one)
    for action, text in (("add", "hold a restore point"), ("remove", "lift the hold of one")):
        one = actions.add_parser(action, help=text)
        one.add_argument("vm", help="name, key or id")
        one.add_argument("point", help="its id")
        if action == "add":
            one.add_argument("--reason", default="", help="why; the list shows it")
        add_repository(one)


def run(args: Namespace) -> int:
    """Do what ``args.action`` says."""
    from airflow_provider_azstack.repo.points import holds  # noqa: PLC0415 - loads cryptography

    repository = open_repository(args)
    if args.action == "list":
        rows = [
            {
                "vm_key": held.vm_key,
                "point": held.point_id,
                "since": held.since.isoformat(timespec="seconds") if held.since else "",
                "reason": held.reason,
            }
            for held in holds.list_holds(repository)
        ]
        show(rows, args.output, _COLUMNS)
        return DONE
    point = find_point(repository, args.vm, args.point)
    if args.action == "add":
        holds.add_hold(repository, point.vm.key, point.id, args.reason)
        say(f"{point.id} of {point.vm.name} is on hold")
        return DONE
    if (point.vm.key, point.id) not in holds.held_points(repository):
        raise ConfigurationError(f"{point.id} of {point.vm.name} is not on hold")
    holds.remove_hold(repository, point.vm.key, point.id)
    say(f"{point.id} of {point.vm.name} is no longer on hold")
    return DONE
