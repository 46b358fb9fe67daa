"""
What all commands share: tables or JSON on standard output, errors in one line, exit states.

Owns the form of what is printed; of what it means it knows the units, by the ends of names.
Invariants: standard output holds the result only, so that it can be piped. JSON has exact numbers,
tables what people read. Who stops reading changes neither what a command does nor its exit state.
Whatever a stack or a guest calls its things, a line is a line and no order to a terminal.
"""

import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from rich.cells import cell_len
from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.table import Table

from airflow_provider_azstack.errors import AzStackError, ConfigurationError
from airflow_provider_azstack.speed import amount, duration

DONE, PARTLY, FAILED = 0, 1, 2

_NO_WIDTH = 10_000
_GAP = 2  # between columns
# Words are broken into lines, of at least that length; what has no spaces is there to be copied.
_SHORTEST_LINE = 32
_HOURS_OF_DAYS = 48  # from when on an age is told in days
# Where the name without its unit is not the name of anything.
_TITLES = {
    "bytes": "data",
    "disk_bytes": "disk size",
    "expected_seconds": "expected time",
    "pack_bytes": "repository",
    "seconds": "took",
}


def guarded(function: Callable[[Namespace], int | None], args: Namespace) -> int:
    """Return the exit state of ``function``; an error of ours is one line for the user."""
    _prepare_output()
    try:
        return function(args) or DONE
    except AzStackError as error:
        say(f"[red]error:[/] {escape(str(error))}")
    except KeyboardInterrupt:
        say("[red]error:[/] interrupted")
    return FAILED


def say(text: str) -> None:
    """Print a remark, in rich's markup, beside the result."""
    Console(stderr=True, soft_wrap=True).print(printable(text), highlight=False)


def printable(text: str) -> str:
    """Return a text that gives no orders to a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def show(
    rows: Sequence[Mapping[str, Any]],
    output: str,
    columns: Sequence[str],
    *,
    nothing: str = "",
    title: str = "",
) -> None:
    """
    Print ``rows`` as a table of ``columns``, or as JSON with every key.

    :param nothing: the remark where there is no row: a head without a body tells nobody anything.
    :param title: of the table, where it is not the only one.
    """
    if not rows and nothing:
        say(escape(nothing))
    if output == "json":
        _print_json(list(rows))
    elif rows:
        cells = [[_cell(column, row.get(column)) for column in columns] for row in rows]
        right = [any(_is_number(row.get(column)) for row in rows) for column in columns]
        _print_table(cells, right=right, head=[_title(column) for column in columns], title=title)


def show_one(facts: Mapping[str, Any], output: str) -> None:
    """Print one thing: its facts below each other, or as one JSON object."""
    if output == "json":
        _print_json(dict(facts))
        return
    cells = [[_title(name), _cell(name, value)] for name, value in facts.items()]
    _print_table(cells, right=[False, False])


def write(text: str, *, must_arrive: bool = False) -> None:
    """
    Write a part of the result to standard output, now.

    :param must_arrive: that the reader is gone is an error.
    :raises ConfigurationError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere, or it would fail once more when the process ends.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if must_arrive or not isinstance(error, BrokenPipeError):  # `head` has seen enough
            reason = error.strerror or error
            raise ConfigurationError(f"standard output cannot be written: {reason}") from None


def _prepare_output() -> None:
    """Let printing work whatever alphabet the terminal has, and where output is closed."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(name: str, value: Any) -> str:
    return printable(_said(name, value))


def _said(name: str, value: Any) -> str:
    """Return what a person reads: 1.5 GB where JSON has 1500000000."""
    if _is_number(value):
        return _measure(name, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "" if value is None else str(value)


def _measure(name: str, value: float) -> str:
    if name.endswith(("bytes", "bytes_per_day")):
        return amount(value)
    if name.endswith("seconds"):
        return duration(value)
    if name.endswith("hours"):
        return f"{value:.1f} h" if value < _HOURS_OF_DAYS else f"{value / 24:.1f} d"
    return str(value)


def _title(name: str) -> str:
    """Return a name without its unit, which the values have."""
    if name in _TITLES:
        return _TITLES[name]
    for unit in ("_bytes", "_seconds", "_hours"):
        name = name.replace(unit, "")
    return name.replace("_", " ")


def _print_table(
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool],
    head: Sequence[str] = (),
    title: str = "",
) -> None:
    table = Table(box=None, header_style="bold", show_header=bool(head), pad_edge=False)
    least = -_GAP
    for n, is_right in enumerate(right):
        cells = [*head[n : n + 1], *(row[n] for row in rows)]
        width = max(map(cell_len, cells))
        has_lines = any(" " in cell and len(cell) > _SHORTEST_LINE for cell in cells)
        width = _SHORTEST_LINE if has_lines else width
        table.add_column(
            head[n] if head else "",
            style="" if head or n else "bold",
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=not has_lines,
            min_width=width,
        )
        least += width + _GAP
    for row in rows:
        table.add_row(*map(escape, row))
    page = _Page(least)
    if title:
        page.print(f"\n[bold]{escape(title)}[/]")
    page.print(table, crop=False)
    write("".join(f"{line.rstrip()}\n" for line in page.text().splitlines()))


def _print_json(value: object) -> None:
    # What cannot be written in the terminal's alphabet is written as JSON does, not as Python does.
    is_narrow = (sys.stdout.encoding or "").lower() != "utf-8"
    page = _Page()
    page.print(
        JSON(json.dumps(value, default=_plain), ensure_ascii=is_narrow), soft_wrap=True, crop=False
    )
    write(page.text())


def _plain(value: object) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


class _Page(Console):
    """What will be written: as wide and as colourful as the terminal, without end in a pipe."""

    def __init__(self, least: int = 0) -> None:
        is_terminal = sys.stdout.isatty()
        super().__init__(file=io.StringIO(), force_terminal=is_terminal or None)
        self.width = max(self.width if is_terminal else _NO_WIDTH, least)

    def text(self) -> str:
        return cast("io.StringIO", self.file).getvalue()
