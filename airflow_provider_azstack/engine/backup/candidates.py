"""
Match the VMs of a job's manifests with what the repository has of them.

Owns which snapshot set and which images make a VM complete, and the reason when none do; publishes
nothing.
Invariant: the images of a complete VM are one of every disk, whole, of one set of this job's own
session. Nothing is kept of a VM once it was looked at, so memory does not grow with their number
but for the names of what is there.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup import sets
from airflow_provider_azstack.engine.backup.join import (
    NotWholeError,
    Part,
    called,
    lied_topic,
    whole_image,
)
from airflow_provider_azstack.engine.backup.manifests import gathered
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    HostShare,
    Image,
    Job,
    Manifest,
    SnapshotSet,
    VmStatus,
    WorkloadVm,
)
from airflow_provider_azstack.repo.sealing.records import Records
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import ObjectInfo


class Wanted(NamedTuple):
    """A VM of the manifests: all of its pieces, and their hosts in that order, each once."""

    vm: WorkloadVm
    hosts: tuple[str, ...]
    pieces: tuple[WorkloadVm, ...]

    def parts(self) -> dict[str, list[Part]]:
        """Return, by disk, what of it is streamed."""
        found: dict[str, list[Part]] = {disk.key: [] for disk in self.vm.disks}
        for piece in self.pieces:
            for disk in piece.streamed:
                found[disk.key].append(disk.part)
        return found


class Candidate(NamedTuple):
    """A VM of the manifests, and what the repository has of it."""

    wanted: Wanted
    snapshot_set: SnapshotSet | None = None
    images: tuple[Image, ...] = ()  # of that set, in the order of its disks
    joined: tuple[Image, ...] = ()  # those of them that were made of parts, and are not put yet
    shares: tuple[HostShare, ...] = ()  # of several hosts, by their names
    is_begun: bool = False  # there are images of it, of whatever set
    status: VmStatus = "done"
    reason: str = ""

    @property
    def vm(self) -> WorkloadVm:
        """The VM, as its first piece says."""
        return self.wanted.vm

    def but(self, status: VmStatus, reason: str) -> "Candidate":
        """Return the same VM with another status."""
        return self._replace(status=status, reason=reason)


def wanted(session: Session, job: Job, manifests: Iterable[Manifest]) -> list[Wanted]:
    """
    Return the VMs of the manifests, each once.

    :raises ConfigurationError: a manifest is of another job.
    """
    pieces: dict[str, list[tuple[int, str, WorkloadVm]]] = defaultdict(list)
    for manifest in gathered(session.repository, manifests):
        if manifest.job != job:
            raise ConfigurationError(
                f"the manifest of host {manifest.host} is of run {manifest.job.run}, session "
                f"{manifest.job.session}: completion is of {job.run}, {job.session}"
            )
        for vm in (vm for workload in manifest.workloads for vm in workload.vms):
            pieces[vm.key].append((vm.piece, manifest.host, vm))
    found = []
    for of_vm in pieces.values():
        of_vm.sort(key=lambda piece: piece[:2])
        hosts = dict.fromkeys(host for _, host, _ in of_vm)
        in_order = tuple(vm for _, _, vm in of_vm)
        found.append(Wanted(in_order[0], tuple(hosts), in_order))
    return found


class Matcher:
    """What a run left in the repository, by VM. Thread-safe."""

    def __init__(self, session: Session, job: Job) -> None:
        """List what is there: once, however many VMs there are."""
        self._session = session
        self._job = job
        self._records: Records = session.repository.records
        store = session.repository.store
        self._sets: dict[str, list[ObjectInfo]] = defaultdict(list)
        for info in store.list(f"sets/{job.run}/"):
            self._sets[info.name.split("/")[2]].append(info)
        self._images: dict[str, list[ObjectInfo]] = defaultdict(list)
        for info in store.list(f"images/{job.run}/"):
            self._images[info.name.split("/")[2].partition(".")[0]].append(info)

    def match(self, vm: Wanted) -> Candidate:
        """Choose the newest set of which every disk has an image; else say what is missing."""
        of_session = [s for s in self._sets_of(vm) if sets.is_current(s, self._job)]
        images = [
            i for i in self._images_of(vm) if names.is_of_session(i.set_id, self._job.session)
        ]
        bare = Candidate(vm, is_begun=bool(images))
        whole = sets.newest_first(of_session, vm.vm)
        if not whole:
            return _without_set(bare, of_session)
        reasons = []
        for snapshot_set in whole:
            try:
                chosen = self._chosen(vm, snapshot_set, images)
            except NotWholeError as error:
                reasons.append(str(error))
            else:
                new = tuple(image for image in chosen if image not in images)
                shares = _shares(vm, (i for i in images if i.set_id == snapshot_set.id))
                return Candidate(vm, snapshot_set, chosen, new, shares, is_begun=True)
        return bare.but("failed", _why(vm, images, reasons[0]))

    def _sets_of(self, vm: Wanted) -> list[SnapshotSet]:
        found = self._records.each(sorted(self._sets.get(vm.vm.key, ())))
        return [self._records.parse(SnapshotSet, data, name) for name, data in found]

    def _images_of(self, vm: Wanted) -> list[Image]:
        found = self._records.each(sorted(self._images.get(vm.vm.key, ())))
        return [self._records.parse(Image, data, name) for name, data in found]

    def _chosen(
        self, vm: Wanted, snapshot_set: SnapshotSet, images: Sequence[Image]
    ) -> tuple[Image, ...]:
        lies = self._session.noted(vm.vm.key, "lied-") if vm.vm.pieces > 1 else []
        parts = vm.parts()
        return tuple(
            whole_image(
                parts[snapshot.disk_key],
                (i for i in images if i.set_id == snapshot_set.id and i.snapshot == snapshot),
                is_lied=lied_topic(snapshot_set.id, snapshot.disk_key) in lies,
            )
            for snapshot in snapshot_set.snapshots
        )


def _shares(vm: Wanted, images: Iterable[Image]) -> tuple[HostShare, ...]:
    """Return what each host did; of a VM that one host streamed, the VM's own line says that."""
    if len(vm.hosts) == 1:
        return ()
    by_host: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_host[image.host].append(image)
    by_host.pop("", None)  # what was joined, or made before hosts were recorded
    return tuple(
        HostShare(
            host=host,
            disks=len(made),
            changed_bytes=sum(image.changed_bytes for image in made),
            seconds=sum(image.seconds for image in made),
            ended_at=max((image.ended_at for image in made if image.ended_at), default=None),
        )
        for host, made in sorted(by_host.items())
    )


def _without_set(bare: Candidate, of_session: Sequence[SnapshotSet]) -> Candidate:
    for note in filter(sets.is_skipped, of_session):
        state = note.vm.power_state
        return bare.but("skipped", f"it was {state}, and the policy requires it stopped")
    return bare.but("failed", "it has no snapshot set: see its snapshot's and stream's logs")


def _why(vm: Wanted, images: Sequence[Image], reason: str) -> str:
    """Say what is missing altogether; else why what is there does not fit together."""
    there = {(image.snapshot.disk_key, image.part) for image in images}
    missing = [
        called(key, part)
        for key, parts in vm.parts().items()
        for part in parts
        if not there & {(key, part), (key, None)}
    ]
    if missing:
        return f"no image of {', '.join(missing)}: see its stream's log"
    if len({image.set_id for image in images}) > 1:
        return (
            "its images are of different snapshot sets, which do not fit together: trigger a new "
            f"run ({reason})"
        )
    return reason
