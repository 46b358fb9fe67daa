"""
The disks of one restored VM: names, places, kinds, and how each comes into being.

Owns the choice between uploading, importing and page blobs, and the check that every place is
free; asks through the survey, writes nothing.
Invariant: a disk goes where nothing is, or where an earlier try of this very plan left it.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from airflow_provider_azstack.arm.versions import api_version
from airflow_provider_azstack.engine.machines import GIB, MAX_DISK_BYTES, MIB
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.place import Case
from airflow_provider_azstack.engine.restore.records import PlannedDisk, Way
from airflow_provider_azstack.engine.restore.replace_plan import Occupant
from airflow_provider_azstack.errors import AzStackError, IntegrityError, ObjectNotFound
from airflow_provider_azstack.model import Disk, Extent, PointImage
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.images.reader import ImageReader

# Api-versions of disks.
_UPLOADS_SINCE = "2018-09-30"
_GENERATIONS_SINCE = "2019-03-01"
_CONTAINER = "vhds"


class DiskPlan:
    """Plans the disks of one VM."""

    def __init__(self, case: Case, occupant: Occupant | None = None) -> None:
        """:param occupant: the VM whose disks they replace."""
        self._case = case
        self._survey = case.survey
        self._occupant = occupant

    def planned(self) -> Iterator[PlannedDisk]:
        """Yield the disks to write, the OS disk first."""
        was = {disk.key: disk for disk in self._case.was.disks}
        for image in self._case.point.images:
            change = self._case.change.disks.get(image.disk_key)
            if not (change and change.skip):
                yield self._disk(image, was[image.disk_key])
        for disk in self._case.was.excluded:
            self._survey.remark(f"{self._case.was.name}: disk {disk.name} was never backed up")

    def _disk(self, image: PointImage, was: Disk) -> PlannedDisk:
        change = self._case.change.disks.get(was.key)
        name = (change and change.name) or self._disk_name(was)
        kind = self._case.request.disk_kind or was.kind
        kind = self._occupant.kind if self._occupant else kind
        body = self._case.was.resources.get(was.source) or {}
        size_bytes = -(-image.size_bytes // MIB) * MIB
        if kind == "managed" and size_bytes > MAX_DISK_BYTES:
            self._survey.refuse(f"disk {name} has more than {MAX_DISK_BYTES // GIB} GiB")
        planned = PlannedDisk(
            key=was.key,
            image=image.image,
            way="upload",
            kind=kind,
            id="",
            name=name,
            size_bytes=size_bytes,
            data_bytes=self._data_bytes(image, name),
            location=self._case.place.location,
            tags=bodies.tagged(body, self._case.plan),
        )
        if kind == "unmanaged":
            url = self._blob_url(was, name)
            self.check_free(url, "blob", was.key)
            return replace(planned, way="blob", id=url)
        target = self._disk_id(was, name)
        self.check_free(target, "disk", was.key)
        way, staging = self._way(target, was.key)
        sku = (change and change.sku) or was.sku or "Standard_LRS"
        properties = bodies.managed_disk_properties(
            body, is_os=was.key == "os", os_type=self._case.was.os_type
        )
        if api_version(target, self._survey.stack.profile) < _GENERATIONS_SINCE:
            properties.pop("hyperVGeneration", None)  # older ones refuse what they do not know
        return replace(planned, way=way, id=target, staging=staging, sku=sku, properties=properties)

    def _data_bytes(self, image: PointImage, name: str) -> int:
        """Return how much there is to write; what shows as damaged now is told now."""
        repository = self._case.repository
        on_damage = self._salvaged if self._case.request.salvage else None
        try:
            reader = ImageReader(repository.image(image.image), repository.reader())
            return sum(extent.length for extent in reader.extents(on_damage=on_damage))
        except (IntegrityError, ObjectNotFound) as error:
            self._survey.refuse(f"disk {name}: {error}: salvage, or take another restore point")
            return 0

    def _salvaged(self, extent: Extent, error: IntegrityError) -> None:
        self._survey.remark(f"{extent.length} bytes at {extent.offset} become zeros: {error}")

    def _way(self, target: str, key: str) -> tuple[Way, str]:
        """Return how a managed disk will be made, and where it may be staged."""
        staging = ""
        if account := self._case.request.storage_account:
            name = f"{bodies.TAG}-{self._case.plan}-{self._case.was.key[:8]}-{key}.vhd"
            if endpoint := self._endpoint(account):
                staging = f"{endpoint}{_CONTAINER}/{name}"
                self._check_container(staging)
        if api_version(target, self._survey.stack.profile) >= _UPLOADS_SINCE:
            return "upload", staging
        if not staging:
            self._survey.refuse(
                "this stack's API profile takes no direct uploads to managed disks: give "
                "storage_account, where they are staged"
            )
        return "import", staging

    def _disk_id(self, was: Disk, name: str) -> str:
        if self._occupant:
            return f"{self._occupant.beside(was.key).rpartition('/')[0]}/{name}"
        if self._case.is_in_place and was.kind == "managed":
            return was.source
        return f"{self._case.place.base}/{bodies.COMPUTE}/disks/{name}"

    def _disk_name(self, was: Disk) -> str:
        if self._occupant:
            return self._occupant.new_name(was.name, self._case.plan)
        if self._case.is_in_place:
            return was.name
        if self._case.request.mode == "disks":
            return f"{was.name[:64]}-{self._case.point.taken_at:%Y%m%d%H%M%S}"
        return self._case.renamed(was.name)

    def _blob_url(self, was: Disk, name: str) -> str:
        if self._occupant:
            return f"{self._occupant.beside(was.key).rpartition('/')[0]}/{name}.vhd"
        if self._case.is_in_place and was.kind == "unmanaged":
            return was.source
        account = self._case.request.storage_account or was.storage_account
        if not account or (
            self._case.place.is_other_stack and not self._case.request.storage_account
        ):
            self._survey.refuse(f"unmanaged disk {name}: give storage_account, where it goes")
            return ""
        endpoint = self._endpoint(account)
        same = was.storage_account == account and was.source.lower().startswith(endpoint.lower())
        container = was.source[len(endpoint) :].split("/")[0] if same else _CONTAINER
        return f"{endpoint}{container}/{name}.vhd" if endpoint else ""

    def _endpoint(self, account: str) -> str:
        try:
            return self._survey.accounts.endpoint(account)
        except AzStackError as error:
            self._survey.refuse(f"storage account {account}: {error}")
            return ""

    def _check_container(self, url: str) -> None:
        container = ""
        try:
            container = self._survey.accounts.container(url)
            next(iter(self._survey.accounts.snapshots(container)), None)
        except AzStackError as error:
            self._survey.refuse(f"container {container or url} cannot be used: {error}")

    def check_free(self, place: str, what: str, disk: str = "") -> None:
        """
        Refuse to write over anything but what an earlier try of this very plan made.

        :param disk: the key, of a disk.
        """
        if not place:
            return
        if what == "blob":
            self._check_container(place)
            try:
                found = self._survey.accounts.properties(place)
            except AzStackError as error:
                self._survey.refuse(f"{place} cannot be looked up: {error}")
                return
            mark = found.metadata.get(bodies.TAG.replace("-", "_"), "") if found else ""
        else:
            there = self._survey.find(place)
            found = there  # type: ignore[assignment]
            mark = ((there or {}).get("tags") or {}).get(bodies.TAG, "")
        if not found:
            return
        if mark == self._case.plan and disk and not self._is_begun(disk):
            self._survey.refuse(
                f"{what} {place} was made by this very restore, whose records are gone by their "
                "age: delete it, or choose another name"
            )
        elif mark == self._case.plan:
            self._survey.remark(f"{what} {place} is there from an earlier try of this restore")
        elif self._case.is_in_place:
            others = "use mode alternate, or 'replace: true' to give it other disks"
            advice = others if what == "VM" else "or use mode alternate"
            self._survey.refuse(
                f"{what} {place} exists: nothing is written over; delete it, {advice}"
            )
        else:
            self._survey.refuse(f"{what} {place} exists: choose another name or group")

    def _is_begun(self, disk: str) -> bool:
        case = self._case
        return restores.is_begun(case.repository, case.plan, case.was.key, disk)
