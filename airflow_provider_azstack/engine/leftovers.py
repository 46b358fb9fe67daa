"""
What we left on a stack: our snapshots, found by name pattern and tags.

Owns the finding and the telling apart of what is still needed; decides nothing about sessions.
Invariant: what is found here was made by this repository's runs, beyond doubt; everything else on
the stack is invisible from here.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.errors import AzStackError, SourceGone
from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)


class Leftover(NamedTuple):
    """One snapshot of ours."""

    id: str  # ARM id of a managed snapshot, or the blob's URL
    blob_snapshot: str  # time stamp of a blob snapshot, "" of a managed one
    is_granted: bool  # somebody has, or had, access to it by a grant
    owner: names.Owner

    @property
    def place(self) -> tuple[str, str]:
        """What identifies the snapshot; ids have no case."""
        return self.id.lower(), self.blob_snapshot


def references(repository: Repository, vm_key: str) -> set[tuple[str, str]] | None:
    """
    Return the places of the snapshots that the VM's next incremental counts from.

    :returns: None when the points of the VM cannot be read: then nothing of it may go.
    """
    try:
        point = repository.latest_point(vm_key)
    except AzStackError as error:
        log.warning("snapshots of %s are kept: its points cannot be read: %s", vm_key, error)
        return None
    images = point.images if point else ()
    return {(image.snapshot.id.lower(), image.snapshot.blob_snapshot) for image in images}


class Sweep:
    """
    Looks through a stack and removes. Everything is tried; what failed is told at the end.

    :param accounts: of the subscriptions that are swept.
    """

    def __init__(self, stack: Stack, accounts: Accounts, repository_id: str) -> None:
        self._stack = stack
        self._compute = Compute(stack)
        self._accounts = accounts
        self._repository = repository_id
        self.errors: list[str] = []

    def do(self, what: str, action: Callable[..., object], *arguments: object) -> bool:
        """Run ``action``; tell whether it worked."""
        try:
            action(*arguments)
        except AzStackError as error:
            log.warning("%s: %s", what, error)
            self.errors.append(f"{what}: {error}")
            return False
        return True

    def managed(self, subscription: str) -> list[Leftover]:
        """Return our managed snapshots in a subscription."""
        found: list[Leftover] = []
        self.do(
            f"snapshots of subscription {subscription}", found.extend, self._managed(subscription)
        )
        return found

    def unmanaged(self, urls: Iterable[str]) -> list[Leftover]:
        """Return our snapshots of all blobs that share a container with one of these."""
        containers: set[str] = set()
        for url in sorted(set(urls)):
            self.do(url, lambda url=url: containers.add(self._accounts.container(url)))
        found: list[Leftover] = []
        for container in sorted(containers):
            self.do(f"snapshots in {container}", found.extend, self._unmanaged(container))
        return found

    def unmanaged_disks(self, subscription: str) -> list[str]:
        """Return the URLs of all unmanaged disks of the VMs of a subscription."""
        found: list[str] = []
        self.do(f"VMs of subscription {subscription}", found.extend, self._urls(subscription))
        return found

    def delete(self, leftover: Leftover) -> bool:
        """Delete a snapshot, its grant first; nothing there is success."""
        return self.do(leftover.id, self._delete, leftover)

    def revoke(self, leftover: Leftover) -> bool:
        """End all access to a snapshot."""
        return self.do(leftover.id, self._compute.revoke, leftover.id)

    def _managed(self, subscription: str) -> Iterator[Leftover]:
        for body in self._compute.snapshots(subscription):
            owner = names.owner_of_snapshot(str(body.get("name", "")), body.get("tags") or {})
            if owner is not None and owner.repository == self._repository:
                state = str((body.get("properties") or {}).get("diskState", ""))
                yield Leftover(str(body["id"]), "", state.lower() == "activesas", owner)

    def _unmanaged(self, container: str) -> Iterator[Leftover]:
        try:
            for snapshot in self._accounts.snapshots(container):
                owner = names.owner_of_blob_snapshot(snapshot.metadata)
                if owner is not None and owner.repository == self._repository:
                    yield Leftover(snapshot.url, snapshot.snapshot, is_granted=False, owner=owner)
        except SourceGone:
            return

    def _urls(self, subscription: str) -> Iterator[str]:
        for body in self._compute.vms(subscription):
            profile = (body.get("properties") or {}).get("storageProfile") or {}
            for entry in (profile.get("osDisk") or {}, *(profile.get("dataDisks") or ())):
                if url := (entry.get("vhd") or {}).get("uri"):
                    yield str(url)

    def _delete(self, leftover: Leftover) -> None:
        if leftover.blob_snapshot:
            self._accounts.delete_snapshot(leftover.id, leftover.blob_snapshot)
            return
        if leftover.is_granted:
            self._compute.revoke(leftover.id)
        self._compute.delete_snapshot(leftover.id)
