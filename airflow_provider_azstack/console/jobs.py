"""
``azstack jobs``: how compound jobs went.

Owns nothing but the table; the rows are the repository's.
Invariant: as JSON it has every field of a row.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import show
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = (
    "started_at",
    "policy",
    "status",
    "seconds",
    "vms",
    "failed",
    "unprotected",
    "read_bytes",
    "stored_bytes",
    "hosts",
    "run",
)


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--last", type=int, default=0, metavar="N", help="only the newest N")
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """List jobs, oldest first."""
    return list_jobs(open_repository(args), args.last, args.output)


def list_jobs(repository: "Repository", last: int, output: str) -> int:
    """Print how jobs went, oldest first; the newest ``last`` of them, or all."""
    if last < 0:
        raise ConfigurationError("--last is 1 or more")
    from airflow_provider_azstack.repo.reports import job_rows  # noqa: PLC0415 - cryptography

    rows = [row._asdict() for row in job_rows(repository, last=last)]
    show(rows, output, _COLUMNS, nothing="no job yet")
    return 0
