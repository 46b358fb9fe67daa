"""
The records that cross layers, each with its strict JSON form.

Owns their shape and bounds; knows neither where they come from nor where they are kept.
Invariant: a record that exists is valid. Unknown fields, wrong types and values out of bounds are
refused where text becomes a record, so nobody checks again further in. No record holds a secret.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.wording import one_line

Size = Annotated[int, Meta(ge=0, le=2**50)]
Text = Annotated[str, Meta(max_length=2048)]
Slug = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,127}\Z")]
VmKey = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
DiskKey = Annotated[str, Meta(pattern=r"\A(os|data-[0-9]{1,3})\Z")]
Moment = Annotated[datetime, Meta(tz=True)]

# `$(?!\n)`: see `config`.
WITHIN_PATTERN = r"^([1-9][0-9]{0,3}[hdwmy])+$(?!\n)"
Within = Annotated[str, Meta(pattern=WITHIN_PATTERN, max_length=40)]
Keep = Annotated[int, Meta(ge=0, le=10_000)]

DiskKind = Literal["managed", "unmanaged"]
Mode = Literal["incremental", "full"]
Consistency = Literal["crash", "stopped", "required_stopped"]
Compression = Literal["fast", "standard", "small"]
# How a disk's changes were known, best first: the page-range difference against the reference
# snapshot, the allocated page ranges with blocks compared by id, or reading everything.
ChangesKnown = Literal["difference", "allocated", "everything"]
VmStatus = Literal["done", "failed", "skipped"]
JobStatus = Literal["done", "partial", "failed"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Base of all records: immutable, no unknown field.

    ``kw_only`` is not inherited, and type checkers do not see that ``frozen`` is: repeat both.
    """


class Extent(NamedTuple):
    """A stretch of a disk. ``zero`` says that it holds zeros now and need not be read."""

    offset: int
    length: int
    zero: bool = False


class Disk(Record, frozen=True, kw_only=True):
    """One disk of a VM, as discovery saw it."""

    key: DiskKey
    name: Text
    kind: DiskKind
    source: Text  # ARM id of a managed disk, or the blob's URL without a query
    size_bytes: Size  # without the VHD footer
    unique_id: Text  # changes when another disk takes the same name or LUN
    lun: int | None = None  # None for the OS disk
    caching: str = "None"
    sku: str = ""
    storage_account: str = ""  # of an unmanaged disk


class VirtualMachine(Record, frozen=True, kw_only=True):
    """A VM with everything that is needed to create it again."""

    id: Text  # ARM id
    key: VmKey  # vmId: the identity; names may be used again by another VM
    name: Text
    subscription_id: Text
    resource_group: Text
    location: Text
    size: Text
    os_type: Text
    power_state: Text  # "running", "deallocated", ...
    # What it was made of: "publisher:offer:sku", or the ARM id of a custom image; "" is unknown.
    image: Text = ""
    disks: tuple[Disk, ...]
    excluded: tuple[Disk, ...] = ()  # left out by the policy
    tags: dict[str, str] = {}
    resources: dict[str, Any] = {}  # ARM id -> body: VM, NICs, addresses, disks, extensions, ...


class Unprotected(Record, frozen=True, kw_only=True):
    """A VM that the policy selects and that cannot be backed up, and why."""

    id: Text
    name: Text
    reason: Text


# Defaults are not written: what knows no choice of compression goes on reading records of jobs.
class Job(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What every task of one compound job knows about it."""

    run: Slug
    session: Slug
    policy: Text
    stack: Text  # the ARM endpoint's host name
    mode: Mode = "incremental"
    consistency: Consistency = "crash"
    compression: Compression = "standard"
    snapshot_group: Text = ""  # resource group of our managed snapshots; "" is the VM's own
    stop_starting_at: Moment | None = None  # the backup window: no VM is begun after this,
    stop_running_at: Moment | None = None  # and none goes on after that


class DiskPart(Record, frozen=True):
    """A stretch of a disk that is streamed by itself: whole regions, or up to the disk's end."""

    first: Size
    end: Size

    @property
    def length(self) -> int:
        """Bytes from the first to the end."""
        return self.end - self.first


class WorkloadDisk(Record, frozen=True, kw_only=True):
    """One disk to stream. A stream refuses a disk whose size or unique id differs from this."""

    key: DiskKey
    kind: DiskKind
    source: Text
    size_bytes: Size
    unique_id: Text
    # To move here: changed if an earlier job tells, else allocated, else size.
    expected_bytes: Size
    part: DiskPart | None = None  # what of it is streamed here; None: the whole disk
    sku: Text = ""  # "" is unknown


class WorkloadVm(Record, frozen=True, kw_only=True):
    """
    One VM to stream, or a piece of one: ids and sizes only.

    Every piece names all disks of the VM: they are snapshotted together.
    """

    id: Text
    key: VmKey
    name: Text
    disks: tuple[WorkloadDisk, ...]
    excluded: tuple[Text, ...] = ()  # unique ids of the disks that the policy leaves out
    piece: int = 0
    pieces: int = 1  # that the VM was cut into, each streamed by itself
    elsewhere: tuple[DiskKey, ...] = ()  # disks that other pieces stream, this one nothing of them
    expected_seconds: float = 0.0  # of one stream, for what is streamed here
    sibling: Text = ""  # key of another VM that was made of the same image, if one is known

    @property
    def streamed(self) -> tuple[WorkloadDisk, ...]:
        """The disks of which something is streamed here."""
        return tuple(disk for disk in self.disks if disk.key not in self.elsewhere)


class Workload(Record, frozen=True, kw_only=True):
    """What one mapped task-group instance streams: a big VM, or a batch of small ones."""

    job: Job
    host: Slug
    number: int
    label: Text  # what the grid shows: "host / vm" or "host / 12 VMs"
    expected_bytes: Size
    vms: tuple[WorkloadVm, ...] = ()
    manifest: Text = ""  # object name of the manifest that holds the VMs, when they were spilled
    limit_bytes: Size | None = None  # a second, for the whole job on this host; None: no limit


class HostForecast(Record, frozen=True, kw_only=True):
    """What was expected of one backup host before its streams began."""

    host: Slug
    made_at: Moment
    streams: int
    workloads: int
    vms: int
    expected_bytes: Size
    busy_seconds: float  # of all its streams together
    end_seconds: float  # from ``made_at`` until its last stream ends
    left_out: int = 0  # VMs that the backup window is expected to leave out


class Manifest(Record, frozen=True, kw_only=True):
    """What one backup host has to stream in one compound job."""

    version: Literal[1] = 1
    job: Job
    host: Slug
    workloads: tuple[Workload, ...]
    forecast: HostForecast | None = None


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


class HostShare(Record, frozen=True, kw_only=True):
    """What one backup host did of a VM that several hosts streamed."""

    host: Slug
    disks: Size  # or parts of them
    changed_bytes: Size
    seconds: float
    ended_at: Moment | None = None


class JobVm(Record, frozen=True, kw_only=True):
    """How one VM fared in a compound job."""

    key: VmKey
    name: Text
    host: Slug  # of its first piece, or of all of it
    status: VmStatus
    reason: Text = ""
    point: Text = ""
    disks: Size = 0  # how many
    disk_bytes: Size = 0
    changed_bytes: Size = 0
    read_bytes: Size = 0
    stored_bytes: Size = 0
    seconds: float = 0.0
    suspicious: tuple[str, ...] = ()  # why its point was flagged
    is_waiting: bool = False  # the backup window left it out: the next job takes it first
    expected_bytes: Size = 0
    expected_seconds: float = 0.0
    ended_at: Moment | None = None  # when its last image was whole
    more_hosts: tuple[Slug, ...] = ()  # of its other pieces, each once
    shares: tuple[HostShare, ...] = ()  # what each of several hosts did
    image: Text = ""  # what it was made of, as `VirtualMachine` has it

    @property
    def by_host(self) -> tuple[HostShare, ...]:
        """What each host did; where no record tells, all of it counts for the first host."""
        whole = HostShare(
            host=self.host,
            disks=self.disks,
            changed_bytes=self.changed_bytes,
            seconds=self.seconds,
            ended_at=self.ended_at,
        )
        return self.shares or (whole,)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All backup hosts that streamed something of it."""
        return (self.host, *self.more_hosts)


class JobRecord(Record, frozen=True, kw_only=True):
    """The record of one compound job."""

    job: Job
    status: JobStatus
    started_at: Moment
    ended_at: Moment
    vms: tuple[JobVm, ...]
    unprotected: tuple[Unprotected, ...] = ()
    forecast: tuple[HostForecast, ...] = ()  # by host: what was expected before


class VmOutline(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """How much of one VM a compound job moved."""

    key: VmKey
    host: Slug
    status: VmStatus
    disks: Size = 0
    changed_bytes: Size = 0
    seconds: float = 0.0
    is_waiting: bool = False
    more_hosts: tuple[Slug, ...] = ()
    shares: tuple[HostShare, ...] = ()
    image: Text = ""


class JobOutline(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What the next job wants to know of an earlier one: its record without all the rest."""

    started_at: Moment
    ended_at: Moment
    vms: tuple[VmOutline, ...]


class Retention(Record, frozen=True, kw_only=True):
    """Which restore points of a VM are kept. A rule that says nothing keeps everything."""

    keep_within: Within | None = None
    keep_last: Keep | None = None
    keep_daily: Keep | None = None
    keep_weekly: Keep | None = None
    keep_monthly: Keep | None = None
    keep_yearly: Keep | None = None
    keep_minimum: Annotated[int, Meta(ge=1, le=10_000)] = 1


R = TypeVar("R")


def to_json(record: Record) -> bytes:
    """Return the record's JSON, the same bytes for the same record."""
    return msgspec.json.encode(record, order="deterministic")


def from_json(kind: type[R], data: bytes | bytearray | memoryview, what: str) -> R:
    """
    Parse ``data`` into a record.

    :param what: names the text in the error, for example ``"points/... of the repository"``.
    :raises ConfigurationError: it is not exactly such a record.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(kind, what, error) from None


def to_plain(record: Record) -> dict[str, Any]:
    """Return the record as plain JSON values, fit for XCom."""
    # By way of the text: to_builtins would leave tuples, which XCom writes as Python classes.
    return msgspec.json.decode(to_json(record))  # type: ignore[no-any-return]


def from_plain(kind: type[R], value: object, what: str) -> R:
    """
    Turn plain JSON values back into a record.

    :raises ConfigurationError: they are not exactly such a record.
    """
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _invalid(kind, what, error) from None


def _invalid(kind: type[Any], what: str, error: Exception) -> ConfigurationError:
    said = one_line(error, kind)
    return ConfigurationError(f"{what} is not a valid {kind.__name__}: {said}")
