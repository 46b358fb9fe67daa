"""
One backup of a file by this project's engine, as a program: what the peers' programs are.

It does what a stream and a completion do for a disk: opens the repository with the passphrase of
the environment, opens a session, stores the disk, publishes a restore point, closes the session.
Restoring and verifying are ``azstack`` commands, so they are not here.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from records import back_up, image_name, publish
from sources import FileDisk

from airflow_provider_azstack.console.arguments import add_repository, open_repository
from airflow_provider_azstack.model import Compression


def main() -> None:
    """Back up one file."""
    parser = ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--based-on", default="", help="the run before; none for a first backup")
    parser.add_argument("--like", default="", help="the run of a VM made of the same image")
    parser.add_argument("--changes-known", action="store_true", help="believe the list beside it")
    parser.add_argument("--compression", choices=get_args(Compression), default="standard")
    args = parser.parse_args()
    repository = open_repository(args)
    session = repository.open_session("benchmark", run=args.run)
    trust = "difference" if args.changes_known else "allocated"
    sibling = repository.image(image_name(args.like)) if args.like else None
    how = {"trust": trust, "compression": args.compression, "sibling": sibling}
    image = back_up(session, FileDisk(args.disk), args.run, args.based_on, **how)
    publish(session, image)
    session.close()


if __name__ == "__main__":
    main()
