"""
The disk of a restore point that a command reads.

Owns how a user names a disk, and the session that keeps its packs while they are read; knows
nothing of what is done with its bytes.
Invariant: a repository that may only be read is read all the same, and the user is told what that
does not protect from.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from airflow_provider_azstack.console.arguments import add_repository, open_repository
from airflow_provider_azstack.console.points import LATEST, find_point
from airflow_provider_azstack.console.present import say
from airflow_provider_azstack.errors import AccessDenied, ConfigurationError
from airflow_provider_azstack.model import Image, RestorePoint

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.images.reader import ImageReader
    from airflow_provider_azstack.repo.repository import Repository


def add_disk(parser: ArgumentParser) -> None:
    """Declare which disk a command is about."""
    parser.add_argument("vm", help="name, key or id")
    parser.add_argument("point", help=f"id of the restore point, how it begins, or {LATEST}")
    parser.add_argument("disk", help="os, data-0, ..., or the disk's name")
    add_repository(parser)


@contextmanager
def opened_disk(args: Namespace) -> "Iterator[tuple[Image, ImageReader]]":
    """Lend the disk that the arguments name; nothing of it is collected meanwhile."""
    from airflow_provider_azstack.repo.images.reader import ImageReader  # noqa: PLC0415 - loads zstandard

    with closing(open_repository(args)) as repository, kept(repository, str(args.command)):
        point = find_point(repository, args.vm, args.point)
        image = repository.image(image_name(point, args.disk))
        yield image, ImageReader(image, repository.reader())


def image_name(point: RestorePoint, disk: str) -> str:
    """
    Return the object name of a disk's image.

    :param disk: its key, or its name on the stack.
    :raises ConfigurationError: the restore point has no such disk.
    """
    names = {one.name: one.key for one in point.vm.disks}
    images = {image.disk_key: image.image for image in point.images}
    key = disk if disk in images else names.get(disk, "")
    if key not in images:
        raise ConfigurationError(
            f"restore point {point.id} has no disk {disk!r}: it has {', '.join(sorted(images))}"
        )
    return images[key]


@contextmanager
def kept(repository: "Repository", purpose: str) -> Iterator[None]:
    """Hold a session, so that no collector takes packs away."""
    try:
        session = repository.open_session(purpose)
    except AccessDenied as error:
        why = escape(str(error))
        say(f"[yellow]note:[/] reading without a session, do not prune meanwhile: {why}")
        yield
        return
    try:
        yield
    finally:
        session.close()
