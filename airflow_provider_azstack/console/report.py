"""
``azstack report``: what there is to see, as one page to look at.

Owns the options and the writing of the file; what the page shows is ``console.pictures``'s.
Invariant: the file is a whole page, or it is what it was before.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show_one, write
from airflow_provider_azstack.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--to", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--days", type=int, default=30, metavar="N", help="1 to 90; default: 30")
    parser.add_argument(
        "--max-age",
        type=float,
        default=0.0,
        metavar="HOURS",
        help="name VMs without a restore point that young, and end with state 1",
    )
    parser.add_argument(
        "--job", default="", metavar="RUN", help="whose timeline is drawn; default: the newest"
    )
    parser.add_argument(
        "--usage", action="store_true", help="what each policy costs as well; reads more"
    )
    parser.add_argument(
        "--timezone", default="UTC", metavar="NAME", help="of all times; default: UTC"
    )
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Write the page."""
    return write_report(open_repository(args), args)


def write_report(repository: "Repository", args: Namespace) -> int:
    """Write the page; the state is 1 when a VM has no restore point as young as was asked for."""
    # Repositories load cryptography, the page jinja2: not to print a help text.
    from airflow_provider_azstack.console.pictures.facts import (  # noqa: PLC0415
        MOST_DAYS,
        Wanted,
        gather,
    )
    from airflow_provider_azstack.console.pictures.page import page  # noqa: PLC0415

    if not 1 <= args.days <= MOST_DAYS:
        raise ConfigurationError(f"--days is 1 to {MOST_DAYS}")
    if not args.max_age >= 0:  # nan as well
        raise ConfigurationError("--max-age is a number of hours, 0 or more")
    wanted = Wanted(
        zone=_zone(args.timezone),
        days=args.days,
        max_age_hours=args.max_age,
        run=args.job,
        usage=args.usage,
    )
    facts = gather(repository, wanted)
    text = page(facts, args.timezone)
    if args.to == "-":
        write(text)
    else:
        _write(Path(args.to), text.encode())
        told = {"file": args.to, "vms": facts.all_vms, "late": facts.late}
        told["attention"] = [item.text for item in facts.attention]
        if args.output == "table":
            told["attention"] = "; ".join(item.text for item in facts.attention) or "nothing"
        show_one(told, args.output)
    if facts.late:
        say(f"[red]too old:[/] {facts.late} of {facts.all_vms} VMs")
    return PARTLY if facts.late else DONE


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"--timezone: {name[:64]!r} is none: give a name such as Europe/Berlin"
        ) from None


def _write(target: Path, data: bytes) -> None:
    from airflow_provider_azstack.engine.export.new_file import (  # noqa: PLC0415 - fcntl, for it
        explained,
        replaced_file,
    )

    with explained(target, lambda: len(data)), replaced_file(target, overwrite=True) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
