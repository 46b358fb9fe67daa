"""
``azstack coverage``: what is protected, how fresh it is, and how well it was checked.

Owns the table and the alarm; the rows are the repository's.
Invariant: with ``--max-age`` the state is 0 only when every VM has a point that is young enough.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.reports import Coverage
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = (
    "vm",
    "status",
    "age_hours",
    "verified_age_hours",
    "suspicious",
    "policy",
    "newest_point",
    "reason",
)


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--max-age",
        type=float,
        default=0.0,
        metavar="HOURS",
        help="state 1 when a VM has no restore point that young",
    )
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Print how each VM is protected."""
    return show_coverage(open_repository(args), args.max_age, args.output)


def show_coverage(repository: "Repository", max_age_hours: float, output: str) -> int:
    """Print how each VM is protected; the state is 1 when one is not, or not lately enough."""
    from airflow_provider_azstack.repo.points.namesakes import distinct  # noqa: PLC0415
    from airflow_provider_azstack.repo.reports import coverage  # noqa: PLC0415 - cryptography

    if not max_age_hours >= 0:  # nan as well
        raise ConfigurationError("--max-age is a number of hours, 0 or more")
    rows = coverage(repository)
    if output == "table":  # JSON has the key
        names = distinct([(row.vm_key, row.vm) for row in rows])
        rows = [row._replace(vm=name) for row, name in zip(rows, names, strict=True)]
    nothing = "no job and no restore point yet"
    show([_facts(row) for row in rows], output, _COLUMNS, nothing=nothing)
    if not max_age_hours:
        return DONE
    late = [row for row in rows if row.age_hours is None or row.age_hours > max_age_hours]
    if late:
        say(f"[red]too old:[/] {len(late)} of {len(rows)} VMs")
    return PARTLY if late else DONE


def _facts(row: "Coverage") -> dict[str, Any]:
    return {name: "" if value is None else value for name, value in row._asdict().items()}
