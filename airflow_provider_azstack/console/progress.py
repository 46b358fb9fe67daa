"""
How far a long command is, on standard error.

Owns the bar and the line that turns; knows nothing of the work.
Invariant: nothing is drawn where nobody looks: not into files, logs or pipes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from airflow_provider_azstack.console.present import printable


@contextmanager
def progress_bar(text: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """
    Lend what has to be told how many bytes are behind us.

    :param total_bytes: None where nobody knows.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(printable(text)), total=total_bytes)
        yield lambda position: progress.update(task, completed=position)


@contextmanager
def turning_line(text: str) -> Iterator[Callable[[str], None]]:
    """Lend what has to be told what is done just now, where nobody knows how much there is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _line: None
        return
    with console.status(text) as status:
        yield lambda line: status.update(f"{text}: {escape(printable(line))}")
