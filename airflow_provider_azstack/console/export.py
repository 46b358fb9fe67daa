"""
``azstack export``: a disk of a restore point as a file, or down a pipe.

Owns the arguments and the report; the engine writes.
Invariant: state 0 means that every byte is what was backed up; after a salvage with losses it is 1.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_output
from airflow_provider_azstack.console.disks import add_disk, opened_disk
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show_one
from airflow_provider_azstack.console.progress import progress_bar
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Image

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.export.disk import Advance, Exported
    from airflow_provider_azstack.repo.images.reader import ImageReader

_STDOUT = "-"
_CONVERTED = ("qcow2", "vhdx")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add_disk(parser)
    parser.add_argument(
        "--format",
        choices=("raw", "vhd", *_CONVERTED),
        default="raw",
        help="vhd is of fixed size; qcow2 and vhdx need qemu-img; default: raw",
    )
    parser.add_argument("--to", metavar="FILE", required=True, help="- is standard output")
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser.add_argument(
        "--salvage", action="store_true", help="zeros where the repository is damaged, and a list"
    )
    add_output(parser)


def run(args: Namespace) -> int:
    """Write the disk; the state is 1 when ranges of it were lost."""
    if args.to == _STDOUT and sys.stdout.isatty():
        raise ConfigurationError("a disk is nothing for a terminal: give --to FILE, or pipe it")
    if args.to == _STDOUT and args.format in _CONVERTED:
        raise ConfigurationError(f"{args.format} is not written in order: give --to FILE")
    with (
        opened_disk(args) as (image, reader),
        progress_bar(args.disk, image.size_bytes) as advance,
    ):
        exported = _exported(args, image, reader, advance)
    for lost in exported.lost:
        say(
            f"[yellow]lost:[/] {lost.length} bytes at {lost.offset} are zero: {escape(lost.reason)}"
        )
    if args.to != _STDOUT:
        _report(args, exported)
    return PARTLY if exported.lost else DONE


def _exported(
    args: Namespace, image: Image, reader: "ImageReader", advance: "Advance"
) -> "Exported":
    # Loaded here: they need zstandard and cryptography, and a help text does not.
    from airflow_provider_azstack.engine.export.conversion import convert  # noqa: PLC0415
    from airflow_provider_azstack.engine.export.disk import DiskExport  # noqa: PLC0415

    target, options = Path(args.to), {"salvage": args.salvage, "advance": advance}
    if args.format in _CONVERTED:
        return convert(reader, args.format, target, overwrite=args.force, **options)
    export = DiskExport(image, reader, args.format, **options)
    if args.to == _STDOUT:
        return export.to_stream(sys.stdout.buffer)
    return export.to_file(target, overwrite=args.force)


def _report(args: Namespace, exported: "Exported") -> None:
    facts = {
        "file": args.to,
        "format": args.format,
        "size_bytes": exported.size_bytes,
        "data_bytes": exported.data_bytes,
        "lost_bytes": sum(lost.length for lost in exported.lost),
    }
    if args.output == "json":
        facts["lost"] = [lost._asdict() for lost in exported.lost]
    show_one(facts, args.output)
