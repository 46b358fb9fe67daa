"""
What all commands share: tables or JSON on standard output, errors in one line, exit states.

Owns the form of what is printed; knows nothing of what it means.
Invariant: standard output holds the result only, so that it can be piped.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from airflow_provider_azstack.errors import AzStackError

DONE, PARTLY, FAILED = 0, 1, 2
_NO_WIDTH = 10_000


def guarded(function: Callable[[Namespace], int | None], args: Namespace) -> int:
    """Return the exit state of ``function``; an error of ours is one line for the user."""
    try:
        return function(args) or DONE
    except AzStackError as error:
        say(f"[red]error:[/] {escape(str(error))}")
    except KeyboardInterrupt:
        say("[red]error:[/] interrupted")
    return FAILED


def say(text: str) -> None:
    """Print a remark, in rich's markup, beside the result."""
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


def printable(text: str) -> str:
    """Return a guest's text such that it gives no orders to a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def show(rows: Sequence[dict[str, Any]], output: str, columns: Sequence[str]) -> None:
    """Print ``rows`` as a table of ``columns``, or as JSON with every key."""
    if output == "json":
        _print_json(list(rows))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = bool(rows) and isinstance(rows[0].get(column), int)
        table.add_column(
            column.replace("_", " "), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        cells = (row.get(column) for column in columns)
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
    _print_table(table)


def show_one(facts: Mapping[str, Any], output: str) -> None:
    """Print one thing: its facts below each other, or as one JSON object."""
    if output == "json":
        _print_json(dict(facts))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), escape(str(value)))
    _print_table(table)


def _print_json(value: object) -> None:
    rich.print_json(json.dumps(value, default=str))


def _print_table(table: Table) -> None:
    # A pipe has no width: rows stay whole there, whatever reads them.
    console = Console() if sys.stdout.isatty() else Console(width=_NO_WIDTH)
    console.print(table)
