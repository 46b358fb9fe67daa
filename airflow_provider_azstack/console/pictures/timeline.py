"""
Who did what when in one job: each image that was made, by which host, from when to when.

Owns where that comes from: the images of the run, of which nothing but sizes, times and hosts is
kept; manifests for the workloads. Images of earlier versions tell no host: then a VM's is the one
of the job's record, and those of its pieces are the manifests'.
Invariant: what no record tells is said to be unknown, never guessed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.console.pictures.words import clean
from airflow_provider_azstack.engine.backup.join import called
from airflow_provider_azstack.model import (
    DiskPart,
    JobRecord,
    Manifest,
    Moment,
    Record,
    Size,
    Text,
    VmKey,
)
from airflow_provider_azstack.repo.repository import THREADS

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

# VM key, disk key, part.
_Which = tuple[str, str, DiskPart | None]


class _ImageTimes(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What an image's record says of how it was made: without its regions, which may be many."""

    name: Text
    vm_key: VmKey
    read_bytes: Size
    stored_bytes: Size
    seconds: float
    ended_at: Moment | None = None
    part: DiskPart | None = None
    host: Text = ""

    @property
    def disk_key(self) -> str:
        return self.name.split("/")[-2].rpartition(".")[2]

    @property
    def is_joined(self) -> bool:
        """Whether it was put together from its parts' images: no stream made it."""
        return "-joined-" in self.name.rpartition("/")[2]


class Stretch(NamedTuple):
    """One image, and its time on a stream."""

    host: str  # those it may have been, if no record tells
    vm: str
    disk: str
    workload: str  # "" is unknown
    began: datetime
    ended: datetime
    read_bytes: int
    stored_bytes: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began).total_seconds()

    @property
    def bytes_per_second(self) -> float:
        """How fast the disk was read."""
        return self.read_bytes / self.seconds if self.seconds > 0 else 0.0


class Timeline(NamedTuple):
    """One job."""

    record: JobRecord
    stretches: tuple[Stretch, ...]  # by host, then by when they began
    untimed: int  # images of which no record says when they were made


def timeline(repository: "Repository", record: JobRecord) -> Timeline:
    """Read who did what when in a job."""
    run = record.job.run
    hosts = {vm.key: (vm.name, vm.hosts) for vm in record.vms}
    given = dict(_given(repository, run))
    recorded = {host for host, _ in given.values()}
    found, untimed = list[Stretch](), 0
    parts = set[tuple[str, str]]()
    joined = set[tuple[str, str]]()
    for image in repository.records.all(f"images/{run}/", _ImageTimes, threads=THREADS):
        which = (image.vm_key, image.disk_key)
        if image.is_joined:
            joined.add(which)
        elif image.ended_at is None:
            untimed += 1
        else:
            parts.add(which)
            name, of_vm = hosts.get(image.vm_key, (image.vm_key, ()))
            given_to, workload = given.get((*which, image.part), ("", ""))
            # The manifest of a host is recorded whole: what is not in it was given to another.
            others = [host for host in of_vm if host not in recorded]
            host = image.host or given_to or " or ".join(others or of_vm) or "unknown"
            found.append(_stretch(image, image.ended_at, clean(name), clean(host), clean(workload)))
    found.sort(key=lambda one: (one.host, one.began, one.vm, one.disk))
    return Timeline(record, tuple(found), untimed + len(joined - parts))


def by_host(stretches: Sequence[Stretch]) -> dict[str, list[Stretch]]:
    """Return what each host did."""
    hosts = defaultdict[str, list[Stretch]](list)
    for one in stretches:
        hosts[one.host].append(one)
    return dict(hosts)


def _stretch(image: _ImageTimes, ended: datetime, vm: str, host: str, workload: str) -> Stretch:
    return Stretch(
        host=host,
        vm=vm,
        disk=called(image.disk_key, image.part),
        workload=workload,
        began=ended - timedelta(seconds=image.seconds),
        ended=ended,
        read_bytes=image.read_bytes,
        stored_bytes=image.stored_bytes,
    )


def _given(repository: "Repository", run: str) -> Iterator[tuple[_Which, tuple[str, str]]]:
    """Yield to which host and workload a disk was given; small manifests are not recorded."""
    for manifest in repository.records.all(f"manifests/{run}/", Manifest):
        for workload in manifest.workloads:
            for vm in workload.vms:
                for disk in vm.streamed:
                    yield (vm.key, disk.key, disk.part), (manifest.host, workload.label)
