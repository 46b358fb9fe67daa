"""
One backup of a file by this project's engine, as a program: what the peers' programs are.

It does what a stream and a completion do for a disk: opens the repository with the passphrase of
the environment, opens a session, stores the disk, publishes a restore point, closes the session.
Restoring and verifying are ``azstack`` commands, so they are not here.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from records import VM, image_name, publish, snapshot_of
from sources import FileDisk

from airflow_provider_azstack.console.arguments import add_repository, open_repository
from airflow_provider_azstack.engine.backup.disk import back_up_disk


def main() -> None:
    """Back up one file."""
    parser = ArgumentParser(description=__doc__)
    add_repository(parser)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--based-on", default="", help="the run before; none for a first backup")
    parser.add_argument("--changes-known", action="store_true", help="believe the list beside it")
    args = parser.parse_args()
    disk = FileDisk(args.disk)
    repository = open_repository(args)
    session = repository.open_session("benchmark", run=args.run)
    image = back_up_disk(
        disk,
        session,
        name=image_name(args.run),
        run=args.run,
        vm_key=VM,
        set_id=args.run,
        snapshot=snapshot_of(disk.size_bytes),
        previous=repository.image(image_name(args.based_on)) if args.based_on else None,
        trust="difference" if args.changes_known else "allocated",
    )
    publish(session, image)
    session.close()


if __name__ == "__main__":
    main()
