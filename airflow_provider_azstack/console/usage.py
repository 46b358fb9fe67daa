"""
``azstack usage``: what a VM or a policy costs.

Owns nothing but the table; the counting is the repository's.
Invariant: as JSON it has every field of a row.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import show

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.reports import By
    from airflow_provider_azstack.repo.repository import Repository

_COLUMNS = (
    "name",
    "points",
    "needed_bytes",
    "unique_bytes",
    "shared_bytes",
    "growth_bytes_per_day",
)


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--by", choices=("vm", "policy"), default="vm", help="default: vm")
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Print what each VM or policy costs."""
    return show_usage(open_repository(args), args.by, args.output)


def show_usage(repository: "Repository", by: "By", output: str) -> int:
    """Print what each VM or policy costs, the dearest first."""
    from airflow_provider_azstack.repo.points.namesakes import distinct  # noqa: PLC0415
    from airflow_provider_azstack.repo.reports import usage_rows  # noqa: PLC0415 - cryptography

    rows = usage_rows(repository, by)
    if output == "table":  # JSON has the key
        names = distinct([(row.key, row.name) for row in rows])
        rows = [row._replace(name=name) for row, name in zip(rows, names, strict=True)]
    show([row._asdict() for row in rows], output, _COLUMNS, nothing="no restore point yet")
    return 0
