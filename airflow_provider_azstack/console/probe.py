"""
``azstack probe``: may backups be trusted to this store?

Owns the verdict's form; the questions are the store's.
Invariant: no repository and no passphrase is needed, and what the probe wrote it takes away.
"""

from argparse import ArgumentParser, Namespace

from airflow_provider_azstack.console.arguments import (
    add_output,
    add_store_options,
    open_store_at,
)
from airflow_provider_azstack.console.present import DONE, FAILED, PARTLY, say, show


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("url", help="a directory, s3://, az:// or gs:// address")
    add_store_options(parser)
    parser.add_argument(
        "--quick", action="store_true", help="do not create enough objects for a second page"
    )
    add_output(parser)


def run(args: Namespace) -> int:
    """Print what the store lacks; the state is 0 for fit, 1 for fit within limits, 2 for unfit."""
    # Stores load obstore: not to print a help text.
    from airflow_provider_azstack.store.probe import Finding, probe  # noqa: PLC0415

    store = open_store_at(args.url, args.store_options)
    findings = probe(store, listing=not args.quick)
    show([finding._asdict() for finding in findings], args.output, Finding._fields)
    if any(finding.fatal for finding in findings):
        say(f"[red]unfit:[/] {store.url} would lose backups")
        return FAILED
    say(f"{store.url} is fit" + " within these limits" * bool(findings))
    return PARTLY if findings else DONE
