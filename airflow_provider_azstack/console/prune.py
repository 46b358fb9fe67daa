"""
``azstack prune``: make room.

Owns the command and its table; what may go, the collector decides.
Invariant: without ``--execute`` nothing changes.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show, show_one
from airflow_provider_azstack.console.progress import turning_line
from airflow_provider_azstack.speed import amount, counted

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.prune.report import Report
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = ("action", "name", "size_bytes", "because")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--execute", action="store_true", help="do it; default: only show")
    parser.add_argument(
        "--fence",
        action="append",
        default=[],
        metavar="SESSION",
        help="a session whose run is known to be dead; may be repeated",
    )
    parser.add_argument("--confirm", default="", metavar="ID", help="the repository's id, if asked")
    add_output(parser)
    add_repository(parser)


def run(args: Namespace) -> int:
    """Show what nothing needs, or delete it."""
    repository = open_repository(args)
    return collect(repository, args.fence, args.confirm, args.output, execute=args.execute)


def collect(
    repository: "Repository", fence: Sequence[str], confirm: str, output: str, *, execute: bool
) -> int:
    """Collect, print what was done or would be, and return the exit state."""
    from airflow_provider_azstack.repo.prune.collector import prune  # noqa: PLC0415 - loads cryptography

    if unknown := sorted(set(fence) - set(repository.sessions())):
        say(f"[yellow]note:[/] there is no session {escape(', '.join(unknown))}")
    with turning_line("pruning" if execute else "looking") as tell:
        report = prune(
            repository, dry_run=not execute, dead_sessions=fence, confirm=confirm, tell=tell
        )
    rows = [row._asdict() for row in report.rows]
    if output == "json":
        show_one({**report._asdict(), "freed_bytes": report.freed_bytes, "rows": rows}, output)
    else:
        show(rows, output, _COLUMNS)  # of nothing to do, the summary tells
    say(summary(report))
    return PARTLY if report.of("held", "keep", "ignore") else DONE


def summary(report: "Report") -> str:
    """Return what a report says, in one line."""
    freed = amount(report.freed_bytes)
    if not report.rows:
        text = "nothing to do"
    elif not report.dry_run:
        text = f"deleted: {counted(len(report.of('delete')), 'object')}, {freed}"
    else:
        going = amount(sum(row.size_bytes for row in report.of("condemn", "repack")))
        text = f"--execute would condemn {going}, and delete the {freed} that are condemned; "
        text += "then what no living session holds back"
    text += f"; of {counted(report.packs, 'pack')}, {amount(report.pack_bytes)}"
    waiting = report.of("wait")
    return text + (f"; {'; '.join(row.because for row in waiting)}" if waiting else "")
