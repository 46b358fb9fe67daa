"""
What a compound job has to do: the job, a manifest for each backup host, workloads in it.

Owns what travels from discovery to the streams; knows nothing of how they fared.
"""

from typing import Literal

from airflow_provider_azstack.model.machines import DiskKind
from airflow_provider_azstack.model.record import DiskKey, Moment, Record, Size, Slug, Text, VmKey

Mode = Literal["incremental", "full"]
Consistency = Literal["crash", "stopped", "required_stopped"]
Compression = Literal["fast", "standard", "small"]


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
