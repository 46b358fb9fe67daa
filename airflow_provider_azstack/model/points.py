"""
What a backup leaves behind: snapshots while it runs, images, restore points, and which stay.

Owns what a restore needs to know; knows no tasks.
"""

from typing import Annotated, Literal

from msgspec import Meta

from airflow_provider_azstack.model.machines import DiskKind, VirtualMachine
from airflow_provider_azstack.model.record import DiskKey, Moment, Record, Size, Slug, Text, VmKey
from airflow_provider_azstack.model.work import Consistency, DiskPart

# How a disk's changes were known, best first: the page-range difference against the reference
# snapshot, the allocated page ranges with blocks compared by id, or reading everything.
ChangesKnown = Literal["difference", "allocated", "everything"]
# `$(?!\n)`: see `config`.
WITHIN_PATTERN = r"^([1-9][0-9]{0,3}[hdwmy])+$(?!\n)"
Within = Annotated[str, Meta(pattern=WITHIN_PATTERN, max_length=40)]
Keep = Annotated[int, Meta(ge=0, le=10_000)]


class DiskSnapshot(Record, frozen=True, kw_only=True):
    """The temporary snapshot of one disk."""

    disk_key: DiskKey
    kind: DiskKind
    id: Text  # ARM id of a managed snapshot, or the blob's URL without a query
    blob_snapshot: Text = ""  # the blob snapshot's time stamp; "" for a managed one
    size_bytes: Size  # without the VHD footer
    unique_id: Text  # of the disk it was taken from
    taken_at: Moment


class SnapshotSet(Record, frozen=True, kw_only=True):
    """The snapshots of all disks of one VM, taken together, with the VM as it was then."""

    id: Slug
    run: Slug
    vm: VirtualMachine
    consistency: Consistency
    snapshots: tuple[DiskSnapshot, ...]


# Defaults are not written: what knows no parts goes on reading the images of whole disks.
class Image(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One disk's content: for every region of the disk the id of its group of runs."""

    name: Text  # its object name: images/<run>/<vm>.<disk>/<try>
    run: Slug
    vm_key: VmKey
    set_id: Slug
    snapshot: DiskSnapshot
    size_bytes: Size
    region_bytes: Size
    regions: tuple[bytes | None, ...]  # block id of the region's runs; None: the region is zero
    footer: Annotated[bytes, Meta(max_length=512)] = b""  # the VHD footer as it was read
    changes_known: ChangesKnown
    based_on: Text = ""  # the image that unchanged runs were taken from
    changed_bytes: Size  # said to be changed, or allocated
    read_bytes: Size
    stored_bytes: Size  # new in the repository because of this image
    seconds: float
    ended_at: Moment | None = None  # by the backup host's clock
    # Of an image that completion joins with others; regions outside of it are None and say nothing.
    part: DiskPart | None = None
    host: Text = ""  # the backup host that streamed it; "" is unknown, or several


class PointImage(Record, frozen=True, kw_only=True):
    """One disk of a restore point."""

    image: Text  # object name
    disk_key: DiskKey
    snapshot: DiskSnapshot
    size_bytes: Size
    changes_known: ChangesKnown
    changed_bytes: Size
    read_bytes: Size
    stored_bytes: Size
    seconds: float

    @classmethod
    def of(cls, image: Image) -> "PointImage":
        """Return what a restore point says of a disk's image."""
        return cls(
            image=image.name,
            disk_key=image.snapshot.disk_key,
            snapshot=image.snapshot,
            size_bytes=image.size_bytes,
            changes_known=image.changes_known,
            changed_bytes=image.changed_bytes,
            read_bytes=image.read_bytes,
            stored_bytes=image.stored_bytes,
            seconds=image.seconds,
        )


class RestorePoint(Record, frozen=True, kw_only=True):
    """The published record of one VM at one time. Complete by itself."""

    id: Slug
    run: Slug
    session: Slug
    policy: Text
    stack: Text
    set_id: Slug
    consistency: Consistency
    taken_at: Moment  # the stack's time of the set's first snapshot
    published_at: Moment
    vm: VirtualMachine
    images: tuple[PointImage, ...]
    previous: Text = ""  # id of the VM's point before this one


class Retention(Record, frozen=True, kw_only=True):
    """Which restore points of a VM are kept. A rule that says nothing keeps everything."""

    keep_within: Within | None = None
    keep_last: Keep | None = None
    keep_daily: Keep | None = None
    keep_weekly: Keep | None = None
    keep_monthly: Keep | None = None
    keep_yearly: Keep | None = None
    keep_minimum: Annotated[int, Meta(ge=1, le=10_000)] = 1
