"""
``azstack files``: list and extract files of a restore point, without mounting it.

Owns the arguments and what is printed; partitions, file systems and writing are the engine's.
Invariant: what a guest called its files cannot give orders to the terminal that shows them.
"""

import os
import stat
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output
from airflow_provider_azstack.console.disks import add_disk, opened_disk
from airflow_provider_azstack.console.present import (
    DONE,
    PARTLY,
    say,
    show,
    show_one,
)
from airflow_provider_azstack.console.progress import progress_bar
from airflow_provider_azstack.errors import ConfigurationError, StoreFull
from airflow_provider_azstack.speed import amount, counted

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.cells import CellCache
    from airflow_provider_azstack.engine.guest.extract import Extracted
    from airflow_provider_azstack.engine.guest.file_systems import Node, Volume
    from airflow_provider_azstack.engine.guest.places import Place

_PARTITIONS = ("partition", "volume", "holds", "offset", "size_bytes", "name")
_FILES = ("mode", "owner", "size_bytes", "modified_at", "name", "target")
_TYPES = {
    "directory": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "other": stat.S_IFIFO,
}


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    one = actions.add_parser("ls", help="list the partitions and volumes of a disk, or a path")
    add_disk(one)
    one.add_argument("path", nargs="?", help="a path in a partition; without it: the partitions")
    _add_partition(one)
    add_output(one)
    one = actions.add_parser("extract", help="copy files and folders out")
    add_disk(one)
    one.add_argument("path", nargs="+", help="a file or folder; / is everything")
    one.add_argument("--to", metavar="DIR", required=True, help="made if there is none")
    _add_partition(one)
    add_output(one)


def _add_partition(parser: ArgumentParser) -> None:
    parser.add_argument("--partition", type=int, metavar="N", help="when several can be read")
    parser.add_argument("--volume", metavar="GROUP/NAME", help="a logical volume of LVM")


def run(args: Namespace) -> int:
    """Do what ``args.action`` says."""
    with _opened(args) as disk:
        if args.action == "extract":
            return _extract(args, disk)
        if args.path is None:
            show(_rows(disk), args.output, _PARTITIONS, nothing="no partition, no file system")
        else:
            _list(args, _volume(args, disk))
    return DONE


@contextmanager
def _opened(args: Namespace) -> "Iterator[CellCache]":
    from airflow_provider_azstack.engine.cells import CellCache  # noqa: PLC0415 - zstandard

    with opened_disk(args) as (_, reader), CellCache(reader) as disk:
        yield disk


def _rows(disk: "CellCache") -> list[dict[str, Any]]:
    from airflow_provider_azstack.engine.guest.places import places  # noqa: PLC0415

    return [
        {
            "partition": place.partition.number,
            "volume": place.volume,
            "holds": place.holds or "unknown",
            "offset": place.partition.offset,
            "size_bytes": place.partition.length,
            "name": place.partition.name,
        }
        for place in places(disk.read, disk.size_bytes)
    ]


def _volume(args: Namespace, disk: "CellCache") -> "Volume":
    """Return the chosen place's file system, or the only one that can be read."""
    from airflow_provider_azstack.engine.guest.file_systems import Volume  # noqa: PLC0415
    from airflow_provider_azstack.engine.guest.places import places  # noqa: PLC0415

    meant = [place for place in places(disk.read, disk.size_bytes) if _is_meant(place, args)]
    readable = [place for place in meant if place.is_readable]
    if not meant or len(readable) > 1:
        found = f"{len(readable)} file systems fit" if readable else "no partition or volume fits"
        raise ConfigurationError(
            f"{found}: say which with --partition or --volume; "
            "'azstack files ls' without a path lists them"
        )
    place = [*readable, *meant][0]
    if place.volume and place not in readable:
        raise ConfigurationError(f"{place.volume} holds {place.holds or 'nothing that we know'}")
    volume = Volume(place.read, place.partition)
    if volume.needs_recovery:
        say("[yellow]note:[/] the file system was in use: its newest changes may be in the journal")
    return volume


def _is_meant(place: "Place", args: Namespace) -> bool:
    return args.partition in {None, place.partition.number} and args.volume in {None, place.volume}


def _list(args: Namespace, volume: "Volume") -> None:
    node = volume.find(args.path)
    nodes: list[Node] = [] if node.kind == "directory" else [node]
    try:
        if node.kind == "directory":
            nodes.extend(node.children())  # what it yields before it tells of broken ones is kept
    finally:
        nodes.sort(key=lambda one: one.name)
        rows = [_facts(one) for one in nodes]
        show(rows, args.output, _FILES, nothing=f"{node.path} is empty")


def _facts(node: "Node") -> dict[str, Any]:
    times, owner = node.times_ns(), node.owner
    modified = datetime.fromtimestamp(times[1] // 10**9, UTC) if times else None
    return {
        "mode": stat.filemode(_TYPES[node.kind] | node.mode),
        "owner": f"{owner[0]}:{owner[1]}" if owner else "",
        "size_bytes": node.size_bytes,
        "modified_at": modified or "",
        "name": node.name,
        "target": node.link_target if node.kind == "symlink" else "",
        "kind": node.kind,
        "path": node.path,
    }


def _extract(args: Namespace, disk: "CellCache") -> int:
    from airflow_provider_azstack.engine.guest.extract import (  # noqa: PLC0415
        Extraction,
        needed_bytes,
    )

    volume = _volume(args, disk)
    nodes = [volume.find(path) for path in args.path]  # all are there, or nothing is written
    extraction = Extraction(
        Path(args.to),
        partition_bytes=volume.partition.length,
        keep_owners=os.geteuid() == 0,
    )
    try:
        with progress_bar("extracted", None) as advance:
            for node in nodes:
                extraction.extract(node, advance)
    except StoreFull as error:
        _tell_kept(args.to, extraction.result())
        needed = amount(sum(map(needed_bytes, nodes)))
        raise StoreFull(f"{error}: all that was asked for takes about {needed}") from None
    except KeyboardInterrupt:
        _tell_kept(args.to, extraction.result())
        raise
    result = extraction.result()
    for problem in result.problems:
        say(f"[yellow]left out:[/] {escape(f'{problem.path}: {problem.reason}')}")
    facts = {**result._asdict(), "problems": [problem._asdict() for problem in result.problems]}
    if args.output == "table":
        facts["problems"] = len(result.problems)
    show_one({"directory": args.to, **facts}, args.output)
    return PARTLY if result.problems else DONE


def _tell_kept(directory: str, result: "Extracted") -> None:
    if result.files:
        whole = f"{counted(result.files, 'whole file')}, {amount(result.data_bytes)}"
        say(
            f"[yellow]note:[/] {escape(directory)} has {whole}; nothing is replaced: another try "
            "needs another --to"
        )
