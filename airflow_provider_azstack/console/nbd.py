"""
``azstack nbd``: a disk of a restore point as a read-only block device.

Owns the arguments and how long it is served; the engine speaks the protocol.
Invariant: the address is printed when clients can connect, and only then.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from airflow_provider_azstack.console.disks import add_disk, opened_disk
from airflow_provider_azstack.console.present import DONE, say, write


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add_disk(parser)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--port", type=int, default=0, help="on this host only; default: a free one")
    place.add_argument("--socket", metavar="PATH", help="a Unix socket that only you can use")


def run(args: Namespace) -> int:
    """Serve the disk until interrupted."""
    from airflow_provider_azstack.engine.cells import CellCache  # noqa: PLC0415 - zstandard
    from airflow_provider_azstack.engine.export.nbd import NbdServer  # noqa: PLC0415

    path = Path(args.socket) if args.socket else None
    with (
        opened_disk(args) as (_, reader),
        CellCache(reader) as disk,
        NbdServer(disk, port=args.port, path=path) as server,
    ):
        write(f"{server.uri}\n")
        say("serving, read-only; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
    return DONE
