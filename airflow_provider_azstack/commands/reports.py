"""
``airflow azstack jobs | coverage | usage | report | verify``: reports with Airflow's connections.

Owns nothing but where the repository comes from; the work is the console's.
Invariant: the same tables, pages and exit states as the commands of ``azstack``.
"""

from argparse import ArgumentTypeError, Namespace

from airflow_provider_azstack.commands.connections import open_repository
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.console.coverage import show_coverage
from airflow_provider_azstack.console.jobs import list_jobs
from airflow_provider_azstack.console.report import write_report
from airflow_provider_azstack.console.usage import show_usage
from airflow_provider_azstack.console.verify import size, verify_repository
from airflow_provider_azstack.errors import ConfigurationError


@command
def jobs(args: Namespace) -> int:
    """List compound jobs, oldest first."""
    return list_jobs(open_repository(args), args.last, args.output)


@command
def coverage(args: Namespace) -> int:
    """Print how each VM is protected."""
    return show_coverage(open_repository(args), args.max_age, args.output)


@command
def usage(args: Namespace) -> int:
    """Print what each VM or policy costs."""
    return show_usage(open_repository(args), args.by, args.output)


@command
def report(args: Namespace) -> int:
    """Write the page of pictures."""
    return write_report(open_repository(args), args)


@command
def verify(args: Namespace) -> int:
    """Verify the repository, and print what was found."""
    try:
        args.budget = size(args.budget) if args.budget else None
    except ArgumentTypeError as error:
        raise ConfigurationError(f"--budget: {error}") from None
    return verify_repository(open_repository(args), args)
