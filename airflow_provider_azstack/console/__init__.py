"""
``azstack ...``: the same engine without Airflow, for the day on which Airflow is down as well.

Owns the commands' names; each one's arguments and work are in the module of its name, with
``add(parser)`` and ``run(args)``, loaded when that command is called.
Invariant: nothing here imports Airflow, and every error of ours ends in one line and state 2.
"""

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from airflow_provider_azstack import __version__
from airflow_provider_azstack.console.mixed import MixedParser

# Name -> what it does, in one line. The module is the name with underscores.
COMMANDS = {
    "points": "list restore points, oldest first",
    "show": "show one restore point: its VM, its disks, how it was read",
    "restore": "say what a restore will do and what speaks against it; with --execute, restore",
    "export": "write a disk of a restore point to a file or a pipe",
    "nbd": "serve a disk of a restore point as a read-only block device",
    "files": "list and extract files of a restore point, without mounting it",
    "rehearse": "restore on trial, into a scratch directory or group, and keep the evidence",
    "init": "create a repository and print its recovery key",
    "keys": "list, add, change and remove what opens the repository",
    "forget": "take restore points away: chosen ones, or those that a rule does not keep",
    "prune": "delete what no restore point needs, as far as nothing still holds it back",
    "hold": "put restore points on legal hold, lift a hold, list holds",
    "sync": "copy restore points to another repository, and repair from it",
    "jobs": "how compound jobs went",
    "estimate": "how well what was expected of a job held",
    "simulate": "what more backup hosts, streams or bandwidth would bring",
    "coverage": "what is protected, how fresh it is, how well it was checked",
    "usage": "what a VM or a policy costs, and how it grows",
    "report": "all that is worth a look as one page of pictures, an HTML file",
    "flags": "restore points that look suspicious, and why",
    "verify": "check that everything that is there can be restored",
    "rebuild-index": "make the index again from what the packs say of themselves",
    "lock": "let an S3 bucket's Object Lock keep what restore points need",
    "probe": "ask a store whether it keeps what backups rely on",
}


class Command(Protocol):
    """What a command's module has."""

    add: Callable[[ArgumentParser], None]  # declare its arguments
    run: Callable[[Namespace], int]  # do it, and return the exit state


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit state: 0 done, 1 partly done, 2 failed."""
    # `kill` and a service manager's stop end a command as Ctrl-C does: sessions are closed, halves
    # of files removed. Python would die on the spot.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while the command was loaded; later ones are its own
        sys.stderr.write("error: interrupted\n")
        return 2


def _run(argv: Sequence[str]) -> int:
    name = next((argument for argument in argv if not argument.startswith("-")), "")
    if name not in {"", *COMMANDS}:
        return _unknown(name)
    parser = _parser(name)
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    # Loaded only now: it needs rich, and --help does not.
    from airflow_provider_azstack.console.present import guarded  # noqa: PLC0415

    return guarded(load(name).run, args)


def _unknown(name: str) -> int:
    # Loaded only here: it needs msgspec, and --help does not.
    from airflow_provider_azstack.wording import did_you_mean  # noqa: PLC0415

    meant = did_you_mean(name, COMMANDS)
    sys.stderr.write(f"error: no command {name!r}{meant}; 'azstack --help' lists all\n")
    return 2


def load(name: str) -> Command:
    """Return the module of a command."""
    return cast("Command", import_module(f"{__name__}.{name.replace('-', '_')}"))


def _parser(chosen: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog="azstack",
        description="Backups of Azure Stack Hub virtual machines, without Airflow.",
        epilog="Exit states: 0 done, 1 partly done, 2 failed.",
    )
    parser.add_argument("--version", action="version", version=f"azstack {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="command", parser_class=MixedParser
    )
    for name, text in COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            load(name).add(one)
    return parser
