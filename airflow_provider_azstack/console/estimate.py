"""
``azstack estimate``: how well what was expected of a job held.

Owns nothing but the tables; what is compared with what the engine decides.
Invariant: a job without a forecast is said to have none, whatever else it has.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import say, show, show_one
from airflow_provider_azstack.engine.backup import outlook
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.model import JobRecord
    from airflow_provider_azstack.repo.repository import Repository


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run", nargs="?", default="", help="as 'azstack jobs' has it; default: the newest"
    )
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Show what was expected of a job beside what came."""
    return show_estimate(open_repository(args), args.run, args.output)


def show_estimate(repository: "Repository", run: str, output: str) -> int:
    """Print how far a job's forecast was off; of the newest job where no run is named."""
    record = find_job(repository, run)
    rows, vms = outlook.estimate_rows(record), outlook.vm_rows(record)
    if output == "json":
        show_one({"run": record.job.run, "hosts": rows, "vms": vms}, output)
        return 0
    if not rows:
        say(f"{escape(record.job.run)} was begun without a forecast")
        return 0
    show(rows, output, outlook.ESTIMATE_COLUMNS, title="hosts")
    show(vms, output, outlook.VM_COLUMNS, title="VMs that were expected worst")
    return 0


def find_job(repository: "Repository", run: str) -> "JobRecord":
    """
    Return the record of a job; of the newest where no run is named.

    :raises ConfigurationError: there is none.
    """
    if run:
        record = repository.job(run)
    else:
        records = repository.jobs()
        record = records[-1] if records else None
    if record is None:
        raise ConfigurationError(
            f"the repository has no job {run!r}: 'azstack jobs' lists them"
            if run
            else "the repository has no job yet"
        )
    return record
