"""
How compound jobs went: the record of one, and what the next one wants to know of it.

Owns outcomes; knows not how they came about.
"""

from typing import Literal

from airflow_provider_azstack.model.machines import Unprotected
from airflow_provider_azstack.model.record import Moment, Record, Size, Slug, Text, VmKey
from airflow_provider_azstack.model.work import HostForecast, Job

VmStatus = Literal["done", "failed", "skipped"]
JobStatus = Literal["done", "partial", "failed"]


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
