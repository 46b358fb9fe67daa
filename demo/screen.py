"""
What the person at the terminal sees: steps, progress while they wait, and the tables at the end.

Owns the form; decides nothing. Invariant: where there is no terminal, every line is new text, so a
log of the demo reads well.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from airflow_provider_azstack.speed import amount
from demo.pools import Placement

# The worst state first: it gives a task its colour.
_COLOURS = {
    "failed": "red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "running": "cyan",
    "success": "green",
}
_SHORT = ("open_session", "accept_manifest", "clean_up")  # done before anyone has read their names
_LOG_WIDTH = 120


class Row(NamedTuple):
    """One restore point in the table at the end."""

    vm: str
    point: str
    disks: int
    disk_bytes: int
    read_bytes: int
    stored_bytes: int
    changes_known: str
    seconds: float
    verdict: str  # empty: every byte is the same


class HostRow(NamedTuple):
    """One backup host in the table of a run."""

    placement: Placement
    workers: str
    tasks: int
    lost: int  # tries that did not end well


class Screen:
    """Talks to the person who started the demo."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = _LOG_WIDTH
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """Say what begins now."""
        self.console.print(f"{self._passed()}  [bold]{escape(text)}[/]")

    def remark(self, text: str) -> None:
        """Say what came of it."""
        self.console.print(f"         {escape(text)}")

    def failure(self, text: str) -> None:
        """Say why the demo cannot go on."""
        self.console.print("[red]the demo has failed:[/]", escape(text))

    @contextmanager
    def waiting(self) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
        """Show how far a DAG run is, on one line of a terminal or in new lines of a log."""
        last = ""
        with self.console.status("") as status:

            def show(tasks: list[dict[str, Any]]) -> None:
                nonlocal last
                line = "  ".join(progress(tasks))
                status.update(f"{self._passed()}  {line}")
                text = Text.from_markup(line).plain  # a log shows no colour: only words are new
                if text != last and not self.console.is_terminal:
                    self.console.print(f"         {text}", soft_wrap=True, markup=False)
                last = text

            yield show

    def _passed(self) -> str:
        return f"[dim]{time.monotonic() - self._began:5.1f} s[/]"

    def table(self, rows: Iterable[Row]) -> None:
        """Show the restore points."""
        table = Table(title="Restore points, read back and compared with the source byte by byte")
        table.add_column("VM")
        table.add_column("restore point")
        for name in ("disks", "disk bytes", "bytes read", "bytes stored"):
            table.add_column(name, justify="right")
        table.add_column("how changes were known")
        table.add_column("seconds", justify="right")
        table.add_column("verdict")
        for row in rows:
            good = not row.verdict
            table.add_row(
                escape(row.vm),
                escape(row.point),
                str(row.disks),
                amount(row.disk_bytes),
                amount(row.read_bytes),
                amount(row.stored_bytes),
                escape(row.changes_known),
                f"{row.seconds:.1f}",
                "[green]identical[/]" if good else f"[red]{escape(row.verdict)}[/]",
            )
        self.console.print(table)

    def hosts(self, rows: Iterable[HostRow]) -> None:
        """Show what ran where."""
        table = Table(title="Backup hosts: every task was found in the logs of its own host only")
        for name in ("host", "workers", "queue", "pool"):
            table.add_column(name)
        for name in ("slots", "most streams at once", "in the pool", "all tasks", "lost tries"):
            table.add_column(name, justify="right")
        for place, workers, tasks, lost in rows:
            named = (place.host, workers, place.queue, place.pool)
            counted = (place.slots, place.most_at_once, place.tasks, tasks, lost)
            table.add_row(*map(escape, named), *map(str, counted))
        self.console.print(table)


def progress(tasks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a text for each task that has begun: how many of its instances are through."""
    states: dict[str, Counter[str]] = {}
    for task in sorted(tasks, key=lambda task: task["start_date"] or "9"):
        states.setdefault(task["task_id"], Counter())[task["state"] or ""] += 1
    for task_id, counts in states.items():
        begun = [state for state in _COLOURS if counts[state]]
        if begun and not task_id.endswith(_SHORT):
            number = f" {counts['success']}/{counts.total()}" if ".workloads." in task_id else ""
            name = task_id.replace(".workloads.", " ")
            yield f"[{_COLOURS[begun[0]]}]{name}{number}[/]"
