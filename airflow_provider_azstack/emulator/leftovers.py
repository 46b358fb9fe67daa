"""
What a backup left on the stack.

Owns the listing; knows nothing of why it is there. Invariant: nothing that costs space or blocks
a deletion is left out, tagged or not.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from airflow_provider_azstack.emulator import disks
from airflow_provider_azstack.emulator.state import World

TAG = "azstack-backup"


class Leftover(NamedTuple):
    """A snapshot, a living grant, or a tagged disk."""

    kind: Literal["snapshot", "blob snapshot", "grant", "disk"]
    id: str
    tags: dict[str, str]


def leftovers(world: World) -> Iterator[Leftover]:
    """Yield all snapshots, living grants, and disks that carry a backup's tag."""
    for snapshot in world.of_type(disks.SNAPSHOTS):
        yield Leftover("snapshot", snapshot.id, snapshot.body["tags"])
    for key, blob in list(world.blobs.items()):
        for name, found in list(blob.snapshots.items()):
            url = f"{world.blob_url}/{'/'.join(key)}?snapshot={name}"
            yield Leftover("blob snapshot", url, found.metadata)
    for grant in list(world.grants.values()):
        if grant.expires > world.clock():
            yield Leftover("grant", grant.resource.id, grant.resource.body["tags"])
    for disk in world.of_type(disks.DISKS):
        if any(tag.startswith(TAG) for tag in disk.body["tags"]):
            yield Leftover("disk", disk.id, disk.body["tags"])
