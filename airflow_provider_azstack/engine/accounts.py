"""
Unmanaged disks by their URLs: which storage account, what the blob is, its snapshots.

Owns the way from a URL to its account; signatures and requests are ``arm``'s business.
Invariant: a URL is used only with the account whose own endpoint it begins with.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.storage import (
    BlobProperties,
    BlobSnapshot,
    Storage,
    account_name,
)
from airflow_provider_azstack.engine.machines import BlobFacts, NotProtectableError
from airflow_provider_azstack.errors import AccessDenied, SourceGone
from airflow_provider_azstack.secret import Secret


class _Account(NamedTuple):
    id: str
    endpoint: str  # as the stack writes it, ending in "/"


class Accounts:
    """The storage accounts of some subscriptions, listed when first needed. Thread-safe."""

    def __init__(self, stack: Stack, subscriptions: Iterable[str]) -> None:
        self._storage = Storage(stack)
        self._subscriptions = sorted({subscription.lower() for subscription in subscriptions})
        self._lock = threading.Lock()
        self._accounts: list[_Account] | None = None

    def facts(self, url: str) -> BlobFacts:
        """
        Return size and identity of an unmanaged disk.

        :raises SourceGone: there is no such blob.
        :raises NotProtectableError: it is no page blob, or its account cannot be used.
        """
        try:
            account = self._account(url)
            found = self._storage.properties(account.id, url)
        except AccessDenied as error:
            raise NotProtectableError(f"unmanaged disk {url} may not be read: {error}") from None
        if found.blob_type not in {"PageBlob", ""}:
            raise NotProtectableError(f"{url} is a {found.blob_type[:40]}, not a page blob")
        return BlobFacts(account_name(account.id), found.length, found.created_at)

    def snapshot(self, url: str, metadata: Mapping[str, str]) -> str:
        """Snapshot a blob and return the snapshot's time stamp."""
        return self._storage.snapshot_blob(self._account(url).id, url, metadata)

    def has_snapshot(self, url: str, stamp: str) -> bool:
        """Tell whether a blob's snapshot is there."""
        try:
            self._storage.properties(self._account(url).id, url, stamp)
        except SourceGone:
            return False
        return True

    def delete_snapshot(self, url: str, stamp: str) -> None:
        """Delete a blob's snapshot; nothing there is success."""
        self._storage.delete_blob_snapshot(self._account(url).id, url, stamp)

    def grant(self, url: str, stamp: str, seconds: int) -> Grant:
        """Return a signed URL of a blob's snapshot."""
        return self._storage.grant_read(self._account(url).id, url, stamp, seconds)

    def properties(self, url: str) -> BlobProperties | None:
        """Return what a blob says about itself, or None when there is none."""
        try:
            return self._storage.properties(self._account(url).id, url)
        except SourceGone:
            return None

    def create(self, url: str, size_bytes: int, metadata: Mapping[str, str], number: int) -> None:
        """Create an empty page blob of that sequence number; never touches one that is there."""
        self._storage.create_page_blob(self._account(url).id, url, size_bytes, metadata, number)

    def copy(self, url: str, source: Secret, metadata: Mapping[str, str]) -> None:
        """Begin to make a page blob as a copy of a snapshot, by its signed URL."""
        self._storage.copy_page_blob(self._account(url).id, url, source, metadata)

    def number(self, url: str, found: BlobProperties, number: int) -> None:
        """Give a page blob its sequence number, if it still is the one that was found."""
        self._storage.number_page_blob(self._account(url).id, url, found, number)

    def grant_write(self, url: str, seconds: int) -> Grant:
        """Return a signed URL to write and read a blob by."""
        return self._storage.grant_write(self._account(url).id, url, seconds)

    def delete(self, url: str, metadata: Mapping[str, str]) -> None:
        """Delete a blob that carries this metadata; nothing there is success."""
        self._storage.delete_page_blob(self._account(url).id, url, metadata)

    def account_id(self, url: str) -> str:
        """Return the ARM id of the account that a URL is in."""
        return self._account(url).id

    def endpoint(self, name: str) -> str:
        """
        Return the blob endpoint of the account of that name, ending in a slash.

        :raises SourceGone: the subscriptions have no such account.
        """
        for account in self._listed():
            if account_name(account.id).lower() == name.lower():
                return account.endpoint
        raise SourceGone(f"there is no storage account {name!r}")

    def container(self, url: str) -> str:
        """Return the URL of the container that a blob is in."""
        endpoint = self._account(url).endpoint
        return endpoint + url[len(endpoint) :].partition("/")[0]

    def snapshots(self, container: str) -> Iterator[BlobSnapshot]:
        """Yield the snapshots of all blobs in a container."""
        return self._storage.blob_snapshots(self._account(f"{container}/").id, container)

    def close(self) -> None:
        """Close idle connections."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listed(self) -> list[_Account]:
        with self._lock:
            if self._accounts is None:
                self._accounts = [
                    _Account(str(body["id"]), endpoint)
                    for subscription in self._subscriptions
                    for body in self._storage.accounts(subscription)
                    if (endpoint := _blob_endpoint(body))
                ]
            return self._accounts

    def _account(self, url: str) -> _Account:
        for account in self._listed():
            if url.lower().startswith(account.endpoint.lower()):
                return account
        raise AccessDenied(
            f"no storage account that the application sees holds {url}: give it the role for "
            "unmanaged disks on that account"
        )


def _blob_endpoint(account: dict[str, Any]) -> str:
    endpoints = (account.get("properties") or {}).get("primaryEndpoints") or {}
    endpoint = str(endpoints.get("blob") or "")
    return endpoint if not endpoint or endpoint.endswith("/") else endpoint + "/"
