"""
The records that cross layers, each with its strict JSON form.

Owns their shape and bounds; knows neither where they come from nor where they are kept.
Invariant: a record that exists is valid. Unknown fields, wrong types and values out of bounds are
refused where text becomes a record, so nobody checks again further in. No record holds a secret.
"""

from airflow_provider_azstack.model.jobs import (
    HostShare,
    JobOutline,
    JobRecord,
    JobStatus,
    JobVm,
    VmOutline,
    VmStatus,
)
from airflow_provider_azstack.model.machines import (
    Disk,
    DiskKind,
    Extent,
    Unprotected,
    VirtualMachine,
)
from airflow_provider_azstack.model.points import (
    WITHIN_PATTERN,
    ChangesKnown,
    DiskSnapshot,
    Image,
    PointImage,
    RestorePoint,
    Retention,
    SnapshotSet,
)
from airflow_provider_azstack.model.record import (
    DiskKey,
    Moment,
    Record,
    Size,
    Slug,
    Text,
    VmKey,
    from_json,
    from_plain,
    to_json,
    to_plain,
)
from airflow_provider_azstack.model.work import (
    Compression,
    Consistency,
    DiskPart,
    HostForecast,
    Job,
    Manifest,
    Mode,
    Workload,
    WorkloadDisk,
    WorkloadVm,
)

__all__ = [
    "WITHIN_PATTERN",
    "ChangesKnown",
    "Compression",
    "Consistency",
    "Disk",
    "DiskKey",
    "DiskKind",
    "DiskPart",
    "DiskSnapshot",
    "Extent",
    "HostForecast",
    "HostShare",
    "Image",
    "Job",
    "JobOutline",
    "JobRecord",
    "JobStatus",
    "JobVm",
    "Manifest",
    "Mode",
    "Moment",
    "PointImage",
    "Record",
    "RestorePoint",
    "Retention",
    "Size",
    "Slug",
    "SnapshotSet",
    "Text",
    "Unprotected",
    "VirtualMachine",
    "VmKey",
    "VmOutline",
    "VmStatus",
    "Workload",
    "WorkloadDisk",
    "WorkloadVm",
    "from_json",
    "from_plain",
    "to_json",
    "to_plain",
]
