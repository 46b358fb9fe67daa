"""
``azstack sync``: copies of restore points in another repository.

Owns the arguments and the report; what is copied, and in which order, is ``repo.copies``'s.
Invariant: the state is 0 only if every restore point that was meant is in the other repository.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.points import none_of, points_of
from airflow_provider_azstack.console.present import DONE, FAILED, PARTLY, say, show
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.copies.outcome import Outcome

_TO = "to-"
_COLUMNS = ("vm", "point", "status", "read_bytes", "stored_bytes", "reason")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--vm", action="append", default=[], help="only of this VM; repeatable")
    parser.add_argument("--point", action="append", default=[], help="only this id; repeatable")
    parser.add_argument(
        "--newest", type=int, default=0, metavar="N", help="only so many of each VM; default: all"
    )
    parser.add_argument(
        "--repair", action="store_true", help="first, store again what either of them lost"
    )
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="blocks in hand at once; default: 4"
    )
    add_output(parser)
    add_repository(parser)
    add_repository(parser, _TO)


def run(args: Namespace) -> int:
    """Repair if asked to, copy, and print what became of each restore point."""
    from airflow_provider_azstack.repo.copies.sync import (  # noqa: PLC0415 - loads cryptography
        Selection,
        repair,
        sync,
    )

    if args.newest < 0 or not 1 <= args.threads <= 64:
        raise ConfigurationError("--newest is 1 or more, --threads 1 to 64")
    source, destination = open_repository(args), open_repository(args, _TO)
    selection = Selection(args.vm, args.point, args.newest)
    work: dict[str, Any] = {
        "threads": args.threads,
        "report": _tell,
        "progress": lambda line: say(escape(line)),
    }
    outcomes: list[Outcome] = []
    if args.repair:
        for damaged, replica in ((destination, source), (source, destination)):
            outcomes += repair(damaged, replica, selection, **work)
    outcomes += sync(source, destination, selection, **work)
    if not outcomes and (args.vm or args.point):
        unknown = [vm for vm in args.vm if not points_of(source, vm)]
        meant = none_of(source, unknown[0]) if unknown else "no restore point is meant by that"
        raise ConfigurationError(f"{meant}: 'azstack points' lists all")
    show(
        [outcome._asdict() for outcome in outcomes],
        args.output,
        _COLUMNS,
        nothing="no restore point yet",
    )
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    return DONE if not failed else FAILED if failed == len(outcomes) else PARTLY


def _tell(outcome: "Outcome") -> None:
    if outcome.status != "there":
        say(f"{outcome.status} {escape(outcome.vm or outcome.vm_key)} {escape(outcome.point)}")
