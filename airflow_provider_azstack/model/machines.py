"""
What of a stack is protected: virtual machines and their disks, as discovery saw them.

Owns what it takes to make one again; knows neither jobs nor restore points.
"""

from typing import Any, Literal, NamedTuple

from msgspec import field

from airflow_provider_azstack.model.record import DiskKey, Record, Size, Text, VmKey

DiskKind = Literal["managed", "unmanaged"]


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
    tags: dict[str, str] = field(default_factory=dict)
    # ARM id -> body: VM, NICs, addresses, disks, extensions, ...
    resources: dict[str, Any] = field(default_factory=dict)


class Unprotected(Record, frozen=True, kw_only=True):
    """A VM that the policy selects and that cannot be backed up, and why."""

    id: Text
    name: Text
    reason: Text
