"""
``azstack hold``: restore points that nobody may forget.

Owns the commands; what a hold is, the repository says.
Invariant: a hold is lifted only by naming its point.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import find_point
from airflow_provider_azstack.console.present import DONE, say, show
from airflow_provider_azstack.errors import AzStackError, ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.points.holds import HeldPoint
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = ("vm", "point", "since", "reason")


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
        rows = [_facts(repository, held) for held in holds.list_holds(repository)]
        show(rows, args.output, _COLUMNS, nothing="no restore point is on hold")
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


def _facts(repository: "Repository", held: "HeldPoint") -> dict[str, Any]:
    try:
        name = repository.point(held.vm_key, held.point_id).vm.name
    except AzStackError:  # a hold is told whatever has become of its point
        name = held.vm_key
    return {
        "vm": name,
        "point": held.point_id,
        "since": held.since or "",
        "reason": held.reason,
        "vm_key": held.vm_key,
    }
