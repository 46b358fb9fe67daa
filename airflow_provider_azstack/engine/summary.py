"""
The table at the end of a run: what became of each VM, and of all of them together.

Owns its columns, its order, its bounds and its forms; decides nothing about what it tells.
Invariants: of ten thousand VMs it shows the failures first, then the largest, and says how many
more there are; the sums are of all of them. No form of it holds a URL's query or live markup.
"""

import html
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_azstack.model import JobRecord, JobVm
from airflow_provider_azstack.secret import scrub
from airflow_provider_azstack.speed import amount, duration

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.restore.execute import Outcome as RestoreOutcome
    from airflow_provider_azstack.engine.restore.records import RestorePlan
    from airflow_provider_azstack.repo.copies.outcome import Outcome as SyncOutcome
    from airflow_provider_azstack.repo.prune.report import Report as Pruned
    from airflow_provider_azstack.repo.verify.findings import Report as Verified

SHOWN = 50
_LONGEST = 200  # characters of one cell
_WIDTH = 100  # of the sums: pages of logs break no line, and hide the end of a long one
_BAD = frozenset({"failed", "bad"})

Cell = str | int | float | None
Row = dict[str, Cell]
Kind = Callable[[Cell], str]


class Column(NamedTuple):
    """One column: the key of its values, what stands above them, how they are shown."""

    key: str
    title: str
    show: Kind
    is_number: bool = True
    is_logged: bool = True  # False: who logs the table has said it, in full and at its own level


class Total(NamedTuple):
    """What is true of all rows together."""

    key: str
    title: str
    value: Cell
    show: Kind


class Table:
    """
    Rows and their sums.

    :param rows: all of them, in any order; the bounds are kept here.
    :param size: the key of the column that says which rows are the largest.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        rows: Iterable[Row],
        *,
        size: str,
        totals: Iterable[Total],
        shown: int = SHOWN,
    ) -> None:
        def order(row: Row) -> tuple[bool, float, str]:
            return row.get("status") not in _BAD, -float(row.get(size) or 0), str(row)

        ordered = sorted(rows, key=order)
        self.title = title
        self.columns = tuple(columns)
        self.rows = ordered[:shown]
        self.more = len(ordered) - len(self.rows)
        self.totals = tuple(totals)

    def text(self) -> str:
        """Return it for a log: columns in line."""
        columns = [column for column in self.columns if column.is_logged]
        cells = self._cells(columns)
        widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
        lines = [self.title]
        for row in cells:
            padded = (
                cell.rjust(width) if column.is_number else cell.ljust(width)
                for cell, width, column in zip(row, widths, columns, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
        return "\n".join([*lines, *self._more(), *_in_lines(self._sums())])

    def markdown(self) -> str:
        """Return it as Markdown; what the rows hold is shown as it is and never taken for more."""
        head, *rows = self._cells(self.columns)
        rule = ["---:" if column.is_number else "---" for column in self.columns]
        lines = [head, rule, *([_escaped(cell) for cell in row] for row in rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        endings = "\n".join(
            f"- {_escaped(line)}" for line in (*self._more(), "; ".join(self._sums()))
        )
        return f"**{_escaped(self.title)}**\n\n{table}\n\n{endings}"

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON, the Markdown included."""
        rows = [
            {key: _clean(value) if isinstance(value, str) else value for key, value in row.items()}
            for row in self.rows
        ]
        return {
            "title": self.title,
            "totals": {total.key: total.value for total in self.totals},
            "rows": rows,
            "more": self.more,
            "markdown": self.markdown(),
        }

    def _cells(self, columns: Sequence[Column]) -> list[list[str]]:
        head = [column.title for column in columns]
        return [head, *([_clean(c.show(row.get(c.key))) for c in columns] for row in self.rows)]

    def _more(self) -> list[str]:
        return [f"and {self.more} more"] if self.more else []

    def _sums(self) -> list[str]:
        return [f"{total.title}: {total.show(total.value)}" for total in self.totals]


def _in_lines(sums: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for one in sums:
        if lines and len(lines[-1]) + len(one) < _WIDTH:
            lines[-1] += f"; {one}"
        else:
            lines.append(one)
    return lines


def backup_table(record: JobRecord) -> Table:
    """Return the table of a compound job."""
    statuses = Counter(vm.status for vm in record.vms)
    read, stored = _sum(record.vms, "read_bytes"), _sum(record.vms, "stored_bytes")
    seconds = round((record.ended_at - record.started_at).total_seconds(), 1)
    totals = (
        Total("done", "VMs done", statuses["done"], _said),
        Total("failed", "failed", statuses["failed"], _said),
        Total("skipped", "skipped", statuses["skipped"], _said),
        Total("unprotected", "not protected", len(record.unprotected), _said),
        Total("disks", "disks", _sum(record.vms, "disks"), _said),
        Total("disk_bytes", "provisioned", _sum(record.vms, "disk_bytes"), _shown_bytes),
        Total("changed_bytes", "changed", _sum(record.vms, "changed_bytes"), _shown_bytes),
        # On the wire: what the disks held, without what protocols add.
        Total("read_bytes", "read from the stack", read, _shown_bytes),
        Total("stored_bytes", "sent to the repository", stored, _shown_bytes),
        Total("ratio", "ratio", _ratio(read, stored), _said),
        Total("seconds", "took", seconds, _shown_seconds),
    )
    title = f"backup {record.job.run}: {record.status}"
    columns = (_text("vm", "VM"), _text("host", "host"), _text("status", "status"), *_NUMBERS)
    rows = (_vm_row(vm) for vm in record.vms)
    return Table(
        title, (*columns, _text("reason", "reason")), rows, size="read_bytes", totals=totals
    )


def restore_table(plan: "RestorePlan", outcomes: Iterable["RestoreOutcome"]) -> Table:
    """
    Return the table of a restore.

    :param outcomes: of the plan's VMs, in their order.
    """
    rows: list[Row] = [
        {
            "vm": outcome.vm,
            "status": outcome.status,
            "disks": len(vm.disks),
            "data_bytes": sum(disk.data_bytes for disk in vm.disks),
            "target": outcome.target,
            "reason": "; ".join(filter(None, (outcome.reason, *outcome.lost))),
        }
        for vm, outcome in zip(plan.vms, outcomes, strict=True)
    ]
    done = [row for row in rows if row["status"] == "done"]
    totals = (
        Total("done", "VMs done", len(done), _said),
        Total("failed", "failed", len(rows) - len(done), _said),
        Total("disks", "disks", sum(int(row["disks"] or 0) for row in done), _said),
        Total("data_bytes", "data", sum(int(row["data_bytes"] or 0) for row in done), _shown_bytes),
    )
    columns = (
        *(_text(key, title) for key, title in (("vm", "VM"), ("status", "status"))),
        Column("disks", "disks", _said),
        Column("data_bytes", "data", _shown_bytes),
        _text("target", "target"),
        _text("reason", "reason")._replace(is_logged=False),
    )
    return Table(f"restore {plan.id}", columns, rows, size="data_bytes", totals=totals)


def sync_table(outcomes: Iterable["SyncOutcome"], seconds: float) -> Table:
    """Return the table of a copy to another repository."""
    told = list(outcomes)
    statuses = Counter(outcome.status for outcome in told)
    read = sum(outcome.read_bytes for outcome in told)
    stored = sum(outcome.stored_bytes for outcome in told)
    totals = (
        *(Total(status, status, count, _said) for status, count in sorted(statuses.items())),
        Total("read_bytes", "read", read, _shown_bytes),
        Total("stored_bytes", "sent", stored, _shown_bytes),
        Total("ratio", "ratio", _ratio(read, stored), _said),
        Total("seconds", "took", round(seconds, 1), _shown_seconds),
    )
    rows: Iterable[Row] = (
        {
            "vm": outcome.vm or outcome.vm_key,
            "point": outcome.point,
            "status": outcome.status,
            "read_bytes": outcome.read_bytes,
            "stored_bytes": outcome.stored_bytes,
            "ratio": _ratio(outcome.read_bytes, outcome.stored_bytes),
            "reason": outcome.reason,
        }
        for outcome in told
    )
    columns = (
        *(_text(key, title) for key, title in (("vm", "VM"), ("point", "restore point"))),
        _text("status", "status"),
        Column("read_bytes", "read", _shown_bytes),
        Column("stored_bytes", "sent", _shown_bytes),
        Column("ratio", "ratio", _said),
        _text("reason", "reason"),
    )
    return Table("sync", columns, rows, size="read_bytes", totals=totals)


def verify_table(report: "Verified") -> Table:
    """Return the table of a verification: what damage costs, disk by disk."""
    rows: Iterable[Row] = (
        {
            "vm": disk.vm or disk.vm_key,
            "point": disk.point,
            "disk": disk.disk_key,
            "status": "bad",
            "lost_bytes": disk.lost_bytes,
            "reason": disk.reason,
        }
        for disk in report.affected
    )
    seconds = round((report.ended_at - report.started_at).total_seconds(), 1)
    totals = (
        Total("points", "restore points", report.points, _said),
        Total("damaged_points", "damaged", report.damaged_points, _said),
        Total("packs", "packs", report.packs, _said),
        Total("pack_bytes", "repository", report.pack_bytes, _shown_bytes),
        Total("read_packs", "packs read", report.read_packs, _said),
        Total("read_bytes", "read", report.read_bytes, _shown_bytes),
        Total("seconds", "took", seconds, _shown_seconds),
    )
    columns = (
        *(_text(key, title) for key, title in (("vm", "VM"), ("point", "restore point"))),
        *(_text(key, key) for key in ("disk", "status")),
        Column("lost_bytes", "lost", _shown_bytes),
        _text("reason", "reason"),
    )
    verdict = "sound" if report.is_sound else "damaged"
    title = f"verify, {report.mode}: {verdict}"
    return Table(title, columns, rows, size="lost_bytes", totals=totals)


def prune_table(report: "Pruned", seconds: float) -> Table:
    """Return the table of a collection: each kind of action, how often, and how many bytes."""
    kinds: dict[str, list[int]] = {}
    for row in report.rows:
        kinds.setdefault(row.action, []).append(row.size_bytes)
    rows: Iterable[Row] = (
        {"action": action, "count": len(sizes), "size_bytes": sum(sizes)}
        for action, sizes in kinds.items()
    )
    totals = (
        Total("points", "restore points", report.points, _said),
        Total("packs", "packs", report.packs, _said),
        Total("pack_bytes", "repository before", report.pack_bytes, _shown_bytes),
        Total("freed_bytes", "freed", report.freed_bytes, _shown_bytes),
        Total("seconds", "took", round(seconds, 1), _shown_seconds),
    )
    columns = (
        _text("action", "action"),
        Column("count", "objects", _said),
        Column("size_bytes", "bytes", _shown_bytes),
    )
    title = "prune, only foreseen" if report.dry_run else "prune"
    return Table(title, columns, rows, size="size_bytes", totals=totals)


def _vm_row(vm: JobVm) -> Row:
    return {
        "vm": vm.name,
        "host": ", ".join(vm.hosts),
        "status": vm.status,
        "disks": vm.disks,
        "changed_bytes": vm.changed_bytes,
        "read_bytes": vm.read_bytes,
        "stored_bytes": vm.stored_bytes,
        "ratio": _ratio(vm.read_bytes, vm.stored_bytes),
        "seconds": round(vm.seconds, 1),
        "bytes_per_second": round(vm.read_bytes / vm.seconds) if vm.seconds else None,
        "reason": "; ".join(filter(None, (vm.reason, *vm.suspicious))),
    }


def _sum(vms: Iterable[JobVm], key: str) -> int:
    return sum(getattr(vm, key) for vm in vms)


def _ratio(read_bytes: int, stored_bytes: int) -> float | None:
    return round(read_bytes / stored_bytes, 1) if stored_bytes else None


def _said(value: object) -> str:
    return "-" if value is None else str(value)


def _shown_bytes(value: Cell) -> str:
    return "-" if value is None else amount(float(value))


def _shown_rate(value: Cell) -> str:
    return "-" if value is None else f"{amount(float(value))}/s"


def _shown_seconds(value: Cell) -> str:
    return "-" if value is None else duration(float(value))


def _text(key: str, title: str) -> Column:
    return Column(key, title, lambda value: str(value or ""), is_number=False)


_NUMBERS = (
    Column("disks", "disks", _said),
    Column("changed_bytes", "changed", _shown_bytes),
    Column("read_bytes", "read", _shown_bytes),
    Column("stored_bytes", "stored", _shown_bytes),
    Column("ratio", "ratio", _said),
    Column("seconds", "time", _shown_seconds),
    Column("bytes_per_second", "rate", _shown_rate),
)


def _clean(text: str) -> str:
    """One line, of bounded length, without signatures."""
    line = " ".join(scrub(text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _escaped(text: str) -> str:
    """Let Markdown and HTML take nothing in a text for theirs."""
    shown = html.escape(text, quote=False)
    for mark in "\\`*_[]|#~":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
