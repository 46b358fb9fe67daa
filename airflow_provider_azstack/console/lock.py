"""
``azstack lock``: let the bucket itself keep what restore points need.

Owns the arguments and the report; which objects, ``repo.immutability`` knows.
Invariant: the state is 0 only if nothing that a restore point needs had been without a lock.
"""

from argparse import ArgumentParser, Namespace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_azstack.console.arguments import (
    add_output,
    add_repository,
    open_repository,
    read_store_options,
)
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.speed import counted

if TYPE_CHECKING:
    from airflow_provider_azstack.store.object_lock import Mode

_LONGEST_DAYS = 36_500
_COLUMNS = ("name", "found", "until")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--days", type=int, required=True, help="hold for so many days from now")
    parser.add_argument(
        "--governance",
        action="store_true",
        help="a lock that a special right can lift; default: compliance, which nobody can",
    )
    parser.add_argument("--dry-run", action="store_true", help="only report")
    add_output(parser)
    add_repository(parser)


def run(args: Namespace) -> int:
    """Lengthen the locks and print what had none; the state is 1 if there was such an object."""
    from airflow_provider_azstack.repo.immutability import protect  # noqa: PLC0415 - heavy
    from airflow_provider_azstack.store.object_lock import open_object_lock  # noqa: PLC0415

    if not 1 <= args.days <= _LONGEST_DAYS:
        raise ConfigurationError(f"--days is 1 to {_LONGEST_DAYS}")
    mode: Mode = "GOVERNANCE" if args.governance else "COMPLIANCE"
    lock = open_object_lock(args.repository, read_store_options(args.store_options), mode)
    repository = open_repository(args)
    until = repository.now() + timedelta(days=args.days)
    report = protect(repository, lock, until, dry_run=args.dry_run)
    show([held._asdict() for held in report.lapses], args.output, _COLUMNS)
    done = "would be" if args.dry_run else "were"
    points, objects = (
        counted(report.points, "restore point"),
        counted(len(report.objects), "object"),
    )
    say(
        f"needed by {points}: {objects}; {len(report.short)} {done} locked until {until:%Y-%m-%d}, "
        f"{len(report.lapses)} had no lock"
    )
    return PARTLY if report.lapses else DONE
