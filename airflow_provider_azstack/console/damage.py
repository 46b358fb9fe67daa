"""
The files that damage costs, beside the report of ``azstack verify``.

Owns for which disks they are looked up and how they are shown; finding them is the engine's.
Invariant: the report is shown whatever comes of this: what hinders is a remark and no failure.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_azstack.console.disks import kept
from airflow_provider_azstack.console.present import say, show
from airflow_provider_azstack.errors import AzStackError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.verify.findings import Affected

DISKS = 16
_FILES = ("vm", "point", "disk", "partition", "file")


def files_of(repository: "Repository", affected: Iterable["Affected"]) -> list[dict[str, Any]]:
    """Return, for the newest damaged point of each disk, the files that the damage costs."""
    from airflow_provider_azstack.engine.guest.file_systems import LibraryMissing  # noqa: PLC0415

    disks = _newest(affected)
    rows = list[dict[str, Any]]()
    if not disks:
        return rows
    with kept(repository, "verify: damaged files"):
        for disk in disks[:DISKS]:
            try:
                rows += _of_disk(repository, disk)
            except LibraryMissing as error:
                say(f"[yellow]damaged files are not told:[/] {escape(str(error))}")
                return rows
            except AzStackError as error:
                reason = escape(str(error))
                say(f"[yellow]damaged files of {disk.vm} {disk.disk_key} not told:[/] {reason}")
    if len(disks) > DISKS:
        say(f"[yellow]damaged files are told of {DISKS} disks,[/] not of {len(disks) - DISKS} more")
    return rows


def show_files(rows: Iterable[dict[str, Any]]) -> None:
    """Print them as a table, and beside it why there may be others."""
    shown = list[dict[str, Any]]()
    for row in rows:
        where = f"{row['partition']} {row['volume']}".strip()
        more = [f"and {row['more']} more"] if row["more"] else []
        for file in [*row["paths"], *more]:
            shown.append({**row, "partition": where, "file": file})
        for reason in row["unread"]:
            name = f"{row['vm']} {row['disk']} partition {where}: {reason}"
            say(f"[yellow]there may be other damaged files:[/] {escape(name)}")
    if shown:
        show(shown, "table", _FILES, title="files")


def _newest(affected: Iterable["Affected"]) -> list["Affected"]:
    """Return the newest point of each disk of which it is known what is lost; ids tell the time."""
    newest = dict[tuple[str, str], "Affected"]()
    for disk in affected:
        key = disk.vm_key, disk.disk_key
        is_known = disk.ranges and not disk.reason
        if is_known and (key not in newest or disk.point > newest[key].point):
            newest[key] = disk
    return list(newest.values())


def _of_disk(repository: "Repository", disk: "Affected") -> list[dict[str, Any]]:
    from airflow_provider_azstack.engine.guest.damaged_files import damaged_files  # noqa: PLC0415

    ranges = ((one.offset, one.length) for one in disk.ranges)
    which = {"vm": disk.vm, "vm_key": disk.vm_key, "point": disk.point, "disk": disk.disk_key}
    return [{**which, **one._asdict()} for one in damaged_files(repository, disk.image, ranges)]
