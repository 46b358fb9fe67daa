"""
``azstack verify``: can everything that is there be restored?

Owns the command and how its report is shown; what is checked the repository decides.
Invariant: the state is 0 only when nothing that a restore point needs is damaged.
"""

import logging
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.damage import files_of, show_files
from airflow_provider_azstack.console.present import DONE, FAILED, PARTLY, say, show, show_one
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import to_plain
from airflow_provider_azstack.speed import amount, counted

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.verify.findings import Affected, Report

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d{1,9})\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_OBJECTS = ("object", "problem", "bad_blocks", "lost_blocks")
_DISKS = ("vm", "point", "disk", "lost_bytes", "where")
_FACTS = (
    "mode",
    "points",
    "packs",
    "pack_bytes",
    "read_packs",
    "read_bytes",
    "unneeded_packs",
    "unneeded_bytes",
)
_SHOWN_RANGES = 4
# Who warns of damaged objects whenever one is met. Here all of them are in the tables.
_SAID_BY_THE_REPORT = ("repo.blocks.index", "repo.blocks.segments", "repo.verify")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    modes = parser.add_mutually_exclusive_group()
    for mode, text in (
        ("structure", "records, runs and the index; that every pack is there (default)"),
        ("cycle", "that, and some packs whole: those never read, or read longest ago"),
        ("full", "that, and all packs whole"),
    ):
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)
    parser.set_defaults(mode="structure")
    parser.add_argument(
        "--budget", type=size, metavar="SIZE", help="of a cycle: read so much, such as 200G"
    )
    parser.add_argument(
        "--days", type=int, default=30, help="in which daily cycles read everything; default: 30"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a full verification that was stopped"
    )
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Verify, and print what was found."""
    return verify_repository(open_repository(args), args)


def verify_repository(repository: "Repository", args: Namespace) -> int:
    """Verify a repository and print what was found."""
    from airflow_provider_azstack.repo.verify.verification import verify  # noqa: PLC0415 - loads cryptography

    if args.budget and args.mode != "cycle":
        raise ConfigurationError("--budget is of a cycle, and of no other verification")
    if args.resume and args.mode != "full":
        raise ConfigurationError("--resume is of a full verification, and of no other")
    with _quiet(_SAID_BY_THE_REPORT):
        report = verify(
            repository,
            args.mode,
            budget_bytes=args.budget,
            days=args.days,
            resume=args.resume,
            progress=say,
        )
        damaged = files_of(repository, report.affected)
    if args.output == "json":
        show_one({**to_plain(report), "damaged_files": damaged}, args.output)
    else:
        _show(report, damaged)
    if report.is_sound:
        return PARTLY if report.findings else DONE
    return FAILED


@contextmanager
def _quiet(names: Iterable[str]) -> Iterator[None]:
    """Let these loggers warn of nothing."""
    loggers = [logging.getLogger(f"airflow_provider_azstack.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def size(text: str) -> int:
    """
    Return the bytes that ``200G`` stands for.

    :raises ArgumentTypeError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is no size: write 500M, 200G or 4T")
    return int(match[1]) * _UNITS[match[2].upper()]


def _show(report: "Report", damaged: list[dict[str, Any]]) -> None:
    facts: dict[str, Any] = {name: getattr(report, name) for name in _FACTS}
    facts["verified_vms"] = len(report.verified)
    if report.cycle is not None:
        facts |= {"budget_bytes": report.cycle.budget_bytes, "days": report.cycle.days}
        facts["overdue_packs"] = report.cycle.overdue_packs
    show_one(facts, "table")
    if report.findings:
        show([to_plain(finding) for finding in report.findings], "table", _OBJECTS, title="objects")
    if report.affected:
        show([_disk_facts(disk) for disk in report.affected], "table", _DISKS, title="disks")
    show_files(damaged)
    if report.cycle is not None and not report.cycle.is_enough:
        days, needed = counted(report.cycle.days, "day"), amount(report.cycle.needed_bytes)
        say(
            f"[yellow]too little:[/] daily runs of {amount(report.cycle.budget_bytes)} do not read "
            f"everything in {days}; {needed} would"
        )
    colour = "green" if report.is_sound else "red"
    say(f"[{colour}]{report.summary()}[/]")


def _disk_facts(disk: "Affected") -> dict[str, Any]:
    shown = [f"{one.offset}+{one.length}" for one in disk.ranges[:_SHOWN_RANGES]]
    more = len(disk.ranges) - len(shown)
    where = ", ".join(shown) + f" and {more} more" * bool(more)
    return {
        "vm": disk.vm or disk.vm_key,
        "point": disk.point,
        "disk": disk.disk_key,
        "lost_bytes": disk.lost_bytes,
        "where": disk.reason or where,
    }
