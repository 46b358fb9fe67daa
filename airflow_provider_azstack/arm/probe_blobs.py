"""
Does this stack do what backups and restores ask of it? The questions about page blobs.

Owns the blobs that it makes, in the container that restores use as well; knows no managed disks.
Invariant: nothing is touched but blobs of the probe's own name, and those are taken away again.
"""

import random
import uuid
from collections.abc import Callable, Iterator

import urllib3

from airflow_provider_azstack.arm.blob_http import BlobClient, settings_of
from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.disk_writer import PAGE_BYTES, DiskWriter
from airflow_provider_azstack.arm.probe import (
    NAME,
    Finding,
    Staging,
    answers,
    covers,
    not_told,
    read,
)
from airflow_provider_azstack.arm.storage import Storage, account_name
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES, build_footer
from airflow_provider_azstack.errors import (
    AzStackError,
    ChangesUnknown,
    ConfigurationError,
    Refused,
    SourceGone,
    UnsupportedStack,
)

CONTAINER = "vhds"  # where restores stage disks
SIZE_BYTES = 8 * 2**20
LENGTH = 16 * PAGE_BYTES
KEPT, CLEARED, WRITTEN = 0, 2**20, 4 * 2**20  # where pages stay, go and come between snapshots
GRANT_SECONDS = 1800
COPY_TRIES = 60
_NUMBER = 4711


def blobs_of(stack: Stack, subscription: str, account: str) -> "BlobTrial":
    """
    Return what tries page blobs in a storage account.

    :raises ConfigurationError: the subscription has no such account.
    """
    storage = Storage(stack)
    for found in storage.accounts(subscription):
        if account_name(str(found["id"])).lower() == account.lower():
            endpoints = (found.get("properties") or {}).get("primaryEndpoints") or {}
            return BlobTrial(stack, storage, str(found["id"]), str(endpoints.get("blob") or ""))
    raise ConfigurationError(f"subscription {subscription} shows no storage account {account}")


class BlobTrial:
    """Page blobs of one probe."""

    def __init__(self, stack: Stack, storage: Storage, account_id: str, endpoint: str) -> None:
        self._stack = stack
        self._storage = storage
        self._account_id = account_id
        self._mark = {"azstack_backup_probe": uuid.uuid4().hex[:8]}
        name = NAME + self._mark["azstack_backup_probe"]
        base = f"{endpoint.rstrip('/')}/{CONTAINER}/{name}"
        self._url, self._copy, self._staged = f"{base}.vhd", f"{base}-copy.vhd", f"{base}-disk.vhd"
        noise = random.Random(name)  # noqa: S311 - any bytes will do
        self._old, self._new = noise.randbytes(LENGTH), noise.randbytes(LENGTH)
        self._snapshots: list[str] = []

    def staging(self) -> Staging:
        """Return what makes a page blob to import a disk from."""
        return Staging(self._account_id, self._stage)

    def probe(self) -> Iterator[Finding]:
        """Yield what the stack does with a page blob, from its creation to its deletion."""
        questions: dict[str, Callable[[], Iterator[Finding]]] = {
            "create a page blob": self._creates,
            "read a blob's snapshot": self._snapshots_and_reads,
            "differences of blobs": self._tells_what_changed,
            "copy a blob": self._copies,
        }
        try:
            for number, (question, ask) in enumerate(questions.items()):
                findings = list(answers(question, ask))
                yield from findings
                if number < 2 and findings[-1].verdict == "failed":
                    return  # the others would only repeat it
        finally:
            yield from self.takes_away()

    def takes_away(self) -> Iterator[Finding]:
        """Delete all that was made."""
        for url in (self._url, self._copy, self._staged):
            try:
                for snapshot in self._snapshots if url == self._url else ():
                    self._storage.delete_blob_snapshot(self._account_id, url, snapshot)
                self._storage.delete_page_blob(self._account_id, url, self._mark)
            except AzStackError as error:
                yield Finding("clean up", "warning", f"delete {url} yourself: {error}")
        self._snapshots.clear()

    def _creates(self) -> Iterator[Finding]:
        self._create(self._url, SIZE_BYTES)
        try:
            other = {**self._mark, "azstack_backup_other": "1"}
            self._storage.create_page_blob(
                self._account_id, self._url, SIZE_BYTES + FOOTER_BYTES, other
            )
            advice = "a restore could replace a disk that is there"
            yield Finding("create a page blob", "failed", f"one was made over another: {advice}")
        except Refused:
            yield Finding("create a page blob", "ok", "made; a second one of its name is refused")
        with self._writer(self._url) as pages:
            for offset in (KEPT, CLEARED):
                pages.write(offset, self._old)
            pages.write(SIZE_BYTES, build_footer(SIZE_BYTES, uuid.uuid4(), self._stack.now()))
        yield self._insists_on_its_number()

    def _insists_on_its_number(self) -> Finding:
        question = "sequence numbers"
        try:
            with self._writer(self._url, _NUMBER + 1) as pages:
                pages.write(KEPT, self._old)
        except Refused:
            return Finding(question, "ok", "a writer that means another blob is refused")
        advice = "end every other restore of a disk before the next one"
        return Finding(question, "warning", f"passed over: {advice}")

    def _snapshots_and_reads(self) -> Iterator[Finding]:
        self._snapshot("1")
        with self._writer(self._url) as pages:
            pages.write(WRITTEN, self._new)
        self._clear(CLEARED)
        self._snapshot("2")
        zeros = bytes(LENGTH)
        wanted = ((self._old, self._old, zeros), (self._old, zeros, self._new))
        for snapshot, contents in zip(self._snapshots, wanted, strict=True):
            with self._reader(self._url, snapshot) as disk:
                for offset, content in zip((KEPT, CLEARED, WRITTEN), contents, strict=True):
                    if read(disk, offset, LENGTH) != content:
                        told = f"other bytes at {offset} than when it was taken"
                        yield Finding("read a blob's snapshot", "failed", told)
                        return
        yield Finding(
            "read a blob's snapshot", "ok", "two hold what was there when they were taken"
        )

    def _tells_what_changed(self) -> Iterator[Finding]:
        question = "differences of blobs"
        first, second = self._snapshots
        with self._reader(self._url, second, previous_snapshot=first) as disk:
            try:
                changed = disk.changed(0, SIZE_BYTES)
            except ChangesUnknown as error:
                yield not_told(question, error)
                return
        if not covers(changed, WRITTEN, LENGTH):
            yield Finding(question, "failed", "pages that were written are left out")
        elif not (covers(changed, CLEARED, LENGTH, zero=True) or covers(changed, CLEARED, LENGTH)):
            yield Finding(question, "failed", "pages that were cleared are left out")
        elif covers(changed, KEPT, LENGTH):
            yield Finding(question, "warning", "pages that did not change are listed as well")
        else:
            yield Finding(question, "ok", "told between two snapshots, cleared pages too")

    def _copies(self) -> Iterator[Finding]:
        advice = "restores over a disk that is there write all of it, not what differs"
        source = self._storage.grant_read(
            self._account_id, self._url, self._snapshots[1], GRANT_SECONDS
        )
        try:
            self._storage.copy_page_blob(self._account_id, self._copy, source.url, self._mark)
            status = self._copied()
        except UnsupportedStack as error:
            yield Finding("copy a blob", "warning", f"refused, {advice}: {error}")
            return
        if status != "success":
            yield Finding("copy a blob", "warning", f"it is {status or 'not told'}: {advice}")
            return
        with self._reader(self._copy) as disk:
            contents = [read(disk, offset, LENGTH) for offset in (WRITTEN, CLEARED)]
        if contents == [self._new, bytes(LENGTH)]:
            yield Finding("copy a blob", "ok", "a snapshot was copied")
        else:
            yield Finding("copy a blob", "failed", "the copy holds other bytes than its source")

    def _copied(self) -> str:
        """Return how the copy ended, or that it is pending still."""
        status = ""
        for _ in range(COPY_TRIES):
            status = self._storage.properties(self._account_id, self._copy).copy_status
            if status != "pending":
                break
            self._stack.patience.sleep(1.0)
        return status

    def _stage(self, size_bytes: int, write: Callable[[DiskWriter], None]) -> str:
        self._create(self._staged, size_bytes)
        with self._writer(self._staged) as pages:
            write(pages)
        return self._staged

    def _create(self, url: str, size_bytes: int) -> None:
        try:
            self._storage.create_page_blob(
                self._account_id, url, size_bytes + FOOTER_BYTES, self._mark, _NUMBER
            )
        except SourceGone as error:
            advice = f"create the container {CONTAINER!r}: restores stage disks there"
            raise SourceGone(f"{advice} ({error})") from None

    def _snapshot(self, number: str) -> None:
        marked = {**self._mark, "azstack_backup_number": number}
        self._snapshots.append(self._storage.snapshot_blob(self._account_id, self._url, marked))

    def _clear(self, offset: int) -> None:
        client = BlobClient(
            version=self._stack.profile.blob,
            ca_bundle=self._stack.ca_bundle,
            patience=self._stack.patience,
        )
        keeper = client.keeper(
            lambda: self._storage.grant_write(self._account_id, self._url, GRANT_SECONDS)
        )
        headers = {
            "x-ms-page-write": "clear",
            "x-ms-range": f"bytes={offset}-{offset + LENGTH - 1}",
            "Content-Length": "0",
        }
        client.exchange("PUT", keeper, _nothing, query="comp=page", headers=headers)
        client.close()

    def _writer(self, url: str, number: int | None = None) -> DiskWriter:
        there = self._storage.properties(self._account_id, url).sequence_number
        return DiskWriter(
            lambda: self._storage.grant_write(self._account_id, url, GRANT_SECONDS),
            sequence_number=there if number is None else number,
            **settings_of(self._stack),
        )

    def _reader(self, url: str, snapshot: str = "", previous_snapshot: str = "") -> BlobDisk:
        return BlobDisk(
            lambda: self._storage.grant_read(self._account_id, url, snapshot, GRANT_SECONDS),
            size_bytes=SIZE_BYTES,
            previous_snapshot=previous_snapshot,
            **settings_of(self._stack),
        )


def _nothing(_response: urllib3.BaseHTTPResponse) -> None:
    """Take any answer that is a success."""
