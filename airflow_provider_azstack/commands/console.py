"""
What the commands share: tables or JSON on standard output, errors in one line, exit states.

Owns the form of what is printed; knows nothing of what it means.
Invariant: standard output holds the result only, so that it can be piped.
"""

import functools
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import rich
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from airflow_provider_azstack.errors import AzStackError

DONE, PARTLY, FAILED = 0, 1, 2

Command = Callable[[Namespace], int | None]


def command(function: Command) -> Callable[[Namespace], None]:
    """Let ``function`` raise our errors and return an exit state; the user sees one line."""

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # As `airflow connections test` does: connections come from the metadata database as well.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            state = function(args)
        except AzStackError as error:
            say(f"[red]error:[/] {escape(str(error))}")
            state = FAILED
        if state:
            sys.exit(state)

    return run


def say(text: str) -> None:
    """Print a remark, in rich's markup, beside the result."""
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


def show(rows: Sequence[dict[str, Any]], output: str, columns: Sequence[str]) -> None:
    """Print ``rows`` as a table of ``columns``, or as JSON with every key."""
    if output == "json":
        rich.print_json(json.dumps(list(rows), default=str))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = bool(rows) and isinstance(rows[0].get(column), int)
        table.add_column(
            column.replace("_", " "), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
