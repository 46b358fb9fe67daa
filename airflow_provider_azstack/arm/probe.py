"""
Does this stack do what backups and restores ask of it? A user can ask before the first of them.

Owns the questions about managed disks and what holds for all of them; judges only by what the
stack does. Knows no Airflow and no repository.
Invariant: nothing is touched but what carries the probe's own name, and that is taken away again.

Much of it is published for the public cloud only: docs/stack.md says what, and where.
"""

import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from airflow_provider_azstack.arm.blob_http import settings_of
from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES, build_footer
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ChangesUnknown,
    UnsupportedStack,
)
from airflow_provider_azstack.model import Extent

Verdict = Literal["ok", "warning", "failed"]

NAME = "azstack-probe-"
TAG = "azstack-backup-probe"
DISK_BYTES = 2**30  # the smallest that diskSizeGB can say; next to nothing of it is written
NOISE_BYTES = 64 * 2**10
OFFSETS = (0, DISK_BYTES // 2, DISK_BYTES - NOISE_BYTES)
GRANT_SECONDS = 1800


class Finding(NamedTuple):
    """
    What one question showed.

    :param verdict: ``failed`` where backups or restores would fail, ``warning`` where they take
        another way.
    """

    question: str
    verdict: Verdict
    finding: str


class Staging(NamedTuple):
    """
    Makes a page blob that holds a VHD, to import a disk from.

    :param write: called with the writer of its pages.
    """

    account_id: str
    blob_of: Callable[[int, Callable[[DiskWriter], None]], str]


def answers(question: str, ask: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a question; one that breaks off is a finding itself."""
    try:
        yield from ask()
    except AzStackError as error:
        yield Finding(question, "failed", str(error))


def probe_disks(stack: Stack, group_id: str, staging: Staging | None = None) -> Iterator[Finding]:
    """
    Yield what a stack does with a managed disk, from its upload to its deletion.

    :param group_id: ARM id of a resource group where disks and snapshots may be made.
    :param staging: where a disk is imported from when it cannot be uploaded.
    """
    trial = _Trial(stack, group_id, staging)
    questions = {
        "create a managed disk": trial.makes_a_disk,
        "snapshot a managed disk": trial.snapshots_it,
        "read a snapshot": trial.reads_a_snapshot,
        "renew access": trial.renews_access,
        "differences of managed disks": trial.tells_what_changed,
    }
    try:
        for question, ask in questions.items():
            findings = list(answers(question, ask))
            yield from findings
            if question in trial.REQUIRED and findings[-1].verdict == "failed":
                return  # the others would only repeat it
    finally:
        yield from trial.takes_away()


class _Trial:
    """One disk and two snapshots of it."""

    REQUIRED = ("create a managed disk", "snapshot a managed disk")

    def __init__(self, stack: Stack, group_id: str, staging: Staging | None) -> None:
        self._stack = stack
        self._compute = Compute(stack)
        self._staging = staging
        self._location = str(stack.get(group_id).get("location") or "")
        self._tags = {TAG: uuid.uuid4().hex[:8]}
        base = f"{group_id}/providers/Microsoft.Compute"
        name = NAME + self._tags[TAG]
        self._disk = f"{base}/disks/{name}"
        self._first, self._second = (f"{base}/snapshots/{name}-{n}" for n in (1, 2))
        self._noise = random.Random(self._tags[TAG]).randbytes(NOISE_BYTES)  # noqa: S311 - any

    def makes_a_disk(self) -> Iterator[Finding]:
        creation = {"createOption": "Upload", "uploadSizeBytes": DISK_BYTES + FOOTER_BYTES}
        try:
            self._compute.create_disk(self._disk, self._body(creation))
        except UnsupportedStack as error:
            advice = "give restores a storage_account, where their disks are staged"
            yield Finding("direct upload", "warning", f"refused, {advice}: {error}")
            yield self._imported()
            return
        granted = self._compute.grant_write(self._disk, GRANT_SECONDS)
        with DiskWriter(lambda: granted, **settings_of(self._stack)) as pages:
            self._fill(pages)
        self._compute.revoke(self._disk)
        yield Finding("direct upload", "ok", "a disk was made, written and finished")

    def snapshots_it(self) -> Iterator[Finding]:
        for snapshot in (self._first, self._second, self._second):  # the last one is there already
            self._compute.create_snapshot(snapshot, self._disk, self._location, self._tags)
        yield Finding("snapshot a managed disk", "ok", "made, and found again by name and tags")

    def reads_a_snapshot(self) -> Iterator[Finding]:
        with self._reader(self._first) as disk:
            wrong = [at for at in OFFSETS if read(disk, at, NOISE_BYTES) != self._noise]
            if wrong:
                advice = "backups would hold other bytes than the disk"
                yield Finding("read a snapshot", "failed", f"other bytes at {wrong[0]}: {advice}")
                return
            yield Finding("read a snapshot", "ok", f"{len(OFFSETS)} ranges came back as written")
            yield from self._lists_pages(disk)

    def renews_access(self) -> Iterator[Finding]:
        """Readers of hours are given a second signed URL; the first may end with that."""
        first = self._granted(self._first)
        second = self._granted(self._first)
        with self._reader(self._first, second) as after, self._reader(self._first, first) as before:
            etag = after.etag
            try:
                is_same, kept = before.etag == etag, "the one before goes on"
            except AccessDenied:
                is_same, kept = True, "it ends the one before, and readers change over"
        if is_same:
            yield Finding("renew access", "ok", f"a second one is given: {kept}")
        else:
            advice = "a disk that takes longer to read than one access lasts is begun again"
            yield Finding("renew access", "warning", f"it shows another ETag: {advice}")

    def tells_what_changed(self) -> Iterator[Finding]:
        question = "differences of managed disks"
        with self._reader(self._second, previous_grant=lambda: self._granted(self._first)) as disk:
            try:
                changed = disk.changed(0, DISK_BYTES)
            except ChangesUnknown as error:
                yield not_told(question, error)
                return
        if changed:
            seen = sum(extent.length for extent in changed)
            yield Finding(question, "warning", f"{seen} bytes are listed where nothing changed")
        else:
            yield Finding(question, "ok", "told between two snapshots")

    def takes_away(self) -> Iterator[Finding]:
        deletions = (
            (self._first, self._compute.delete_snapshot),
            (self._second, self._compute.delete_snapshot),
            (self._disk, self._compute.delete_disk),
        )
        for resource, delete in deletions:
            try:
                if self._stack.find(resource) is not None:
                    delete(resource)
            except AzStackError as error:
                yield Finding("clean up", "warning", f"delete {resource} yourself: {error}")

    def _imported(self) -> Finding:
        if self._staging is None:
            raise UnsupportedStack("nowhere to stage: name a storage account to try imports")
        url = self._staging.blob_of(DISK_BYTES, self._fill)
        creation = {
            "createOption": "Import",
            "sourceUri": url,
            "storageAccountId": self._staging.account_id,
        }
        self._compute.create_disk(self._disk, self._body(creation))
        return Finding("import", "ok", "a disk was made of a page blob")

    def _fill(self, pages: DiskWriter) -> None:
        for offset in OFFSETS:
            pages.write(offset, self._noise)
        pages.write(DISK_BYTES, build_footer(DISK_BYTES, uuid.uuid4(), self._stack.now()))

    def _body(self, creation: dict[str, Any]) -> dict[str, Any]:
        return {
            "location": self._location,
            "tags": self._tags,
            "sku": {"name": "Standard_LRS"},
            "properties": {"creationData": creation},
        }

    def _granted(self, snapshot: str) -> Grant:
        return self._compute.grant_read(snapshot, GRANT_SECONDS)

    def _reader(self, snapshot: str, grant: Grant | None = None, **more: Any) -> BlobDisk:
        def granted() -> Grant:
            return grant or self._granted(snapshot)

        return BlobDisk(granted, size_bytes=DISK_BYTES, **more, **settings_of(self._stack))

    def _lists_pages(self, disk: BlobDisk) -> Iterator[Finding]:
        question = "allocated pages"
        try:
            listed = disk.allocated(0, DISK_BYTES)
        except ChangesUnknown as error:
            yield Finding(question, "warning", f"not told, every backup reads all: {error}")
            return
        missing = [at for at in OFFSETS if not covers(listed, at, NOISE_BYTES)]
        if missing:
            advice = "backups would leave data out"
            yield Finding(question, "failed", f"data at {missing[0]} is not listed: {advice}")
        else:
            seen = sum(extent.length for extent in listed)
            yield Finding(question, "ok", f"{seen} of {DISK_BYTES} bytes are listed")


def covers(extents: Iterable[Extent], offset: int, length: int, *, zero: bool = False) -> bool:
    """Tell whether a stretch is inside the extents of one kind, which are sorted and joined."""
    return any(
        extent.offset <= offset and offset + length <= extent.offset + extent.length
        for extent in extents
        if extent.zero == zero
    )


def not_told(question: str, error: ChangesUnknown) -> Finding:
    """Return what it means that a stack does not tell what changed."""
    advice = "incrementals read all that is allocated, and store what is new"
    return Finding(question, "warning", f"not told: {advice} ({error})")


def read(disk: BlobDisk, offset: int, length: int) -> bytes:
    """Return bytes of a disk."""
    buffer = bytearray(length)
    disk.read_into(offset, memoryview(buffer))
    return bytes(buffer)
