"""
Virtual machines, disks, snapshots and access grants.

Owns what we do to compute resources; knows nothing of policies, runs or images. Bodies are plain
dicts with wire names: a backup of metadata needs the fields that no model knows.
Invariant: every call may be repeated. Creating is get-or-create, releasing and deleting what is
not there is success, and a snapshot that is not what we asked for is never taken for ours.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.versions import api_version
from airflow_provider_azstack.errors import (
    ConfigurationError,
    Refused,
    SourceBusy,
    SourceError,
    Unreachable,
    UnsupportedStack,
)
from airflow_provider_azstack.secret import Secret

log = logging.getLogger(__name__)

_PROVIDER = "providers/Microsoft.Compute"
# From this version on, snapshots know "incremental"; older ones refuse unknown properties.
_INCREMENTAL_SINCE = "2019-03-01"
# No page says which createOptions a stack knows, nor how and when it refuses the others.
_UNKNOWN_WAY = (
    "createoption", "uploadsizebytes", "not supported", "notsupported", "unsupported",
    "not implemented", "notimplemented", "not enabled", "notenabled",
)  # fmt: skip


class Compute:
    """Compute resources of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def vms(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the virtual machines of a subscription, without instance views."""
        return self._stack.list(f"/subscriptions/{subscription}/{_PROVIDER}/virtualMachines")

    def vm(self, vm_id: str, *, instance_view: bool = False) -> dict[str, Any]:
        """Return a virtual machine; its power state is in the instance view."""
        return self._stack.get(vm_id, **({"$expand": "instanceView"} if instance_view else {}))

    def extensions(self, vm_id: str) -> list[dict[str, Any]]:
        """Return the extensions of a virtual machine (without their protected settings)."""
        return list(self._stack.list(f"{vm_id}/extensions"))

    def disks(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the managed disks of a subscription."""
        return self._stack.list(f"/subscriptions/{subscription}/{_PROVIDER}/disks")

    def snapshots(self, scope: str) -> Iterator[dict[str, Any]]:
        """
        Yield the managed snapshots in a scope.

        :param scope: a subscription's id, or the path of a resource group.
        """
        base = scope if scope.startswith("/") else f"/subscriptions/{scope}"
        return self._stack.list(f"{base}/{_PROVIDER}/snapshots")

    def create_snapshot(
        self, snapshot_id: str, source_id: str, location: str, tags: Mapping[str, str]
    ) -> dict[str, Any]:
        """
        Snapshot a managed disk, or return the snapshot that an earlier try made.

        :raises Refused: another snapshot has that name.
        :raises SourceError: the stack made it, and it is not sound: another try may help.
        """
        there = self._stack.find(snapshot_id)
        if there is not None:
            _require_ours(there, snapshot_id, source_id, tags)
            if _state(there) == "succeeded":
                return there
        properties: dict[str, Any] = {
            "creationData": {"createOption": "Copy", "sourceResourceId": source_id}
        }
        if api_version(snapshot_id, self._stack.profile) >= _INCREMENTAL_SINCE:
            properties["incremental"] = False
        body = {"location": location, "tags": dict(tags), "properties": properties}
        made = self._stack.put(snapshot_id, body)
        if _state(made) != "succeeded":
            raise SourceError(
                f"snapshot {snapshot_id} of {source_id} is {_state(made) or 'in no state'}, "
                "not succeeded: try again"
            )
        return made

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; an export that is still active is ended first."""
        try:
            self._stack.delete(snapshot_id)
        except SourceBusy:
            self.revoke(snapshot_id)
            self._stack.delete(snapshot_id)

    def grant_read(self, resource_id: str, seconds: int) -> Grant:
        """
        Grant read access to a snapshot (or disk) for ``seconds``.

        Whether a second grant is given while one is active is documented nowhere. Where it is
        refused the first is ended: a snapshot's content does not change, and its readers find
        their way through the refusal to the new grant.
        """
        try:
            return self._grant(resource_id, seconds)
        except SourceBusy:
            self.revoke(resource_id)
            return self._grant(resource_id, seconds)

    def revoke(self, resource_id: str) -> None:
        """End all access granted to a snapshot or disk; none granted, or nothing there, is fine."""
        path = f"{resource_id}/endGetAccess"
        answer = self._stack.request("POST", path, accept={404})
        if answer.status != 404:
            self._stack.finish(answer)

    def create_disk(self, disk_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Create a managed disk; return it when that has ended.

        :raises UnsupportedStack: the stack does not know this way of creating disks.
        """
        try:
            return self._stack.put(disk_id, body)
        except (ConfigurationError, SourceBusy, Unreachable) as error:
            if any(word in str(error).lower() for word in _UNKNOWN_WAY):
                raise UnsupportedStack(str(error)) from None
            raise

    def delete_disk(self, disk_id: str) -> None:
        """
        Delete a managed disk, access to it first; nothing there is success.

        When access to a half-written upload ends, the stack looks for a VHD's footer and says
        InvalidVhd: github.com/microsoft/AzureStorageExplorer/issues/8612. It may be deleted.
        """
        try:
            self.revoke(disk_id)
        except (ConfigurationError, Unreachable) as error:
            log.info("%s is deleted though its access did not end well: %s", disk_id, error)
        self._stack.delete(disk_id)

    def grant_write(self, disk_id: str, seconds: int) -> Grant:
        """
        Grant write access to a disk that was created for uploading.

        Never ends another grant, as reading does: that would make a half-written disk usable.

        :raises SourceBusy: another grant is active and the stack gives no second one.
        """
        return self._grant(disk_id, seconds, "Write")

    def deallocate(self, vm_id: str) -> None:
        """Stop a virtual machine and release its host; return when that is done."""
        self._stack.run(f"{vm_id}/deallocate")

    def delete_vm(self, vm_id: str) -> None:
        """Delete a virtual machine; its disks and interfaces stay, and are free then."""
        self._stack.delete(vm_id)

    def start(self, vm_id: str) -> None:
        """Start a virtual machine; return when it runs."""
        self._stack.run(f"{vm_id}/start")

    def _grant(self, resource_id: str, seconds: int, access: str = "Read") -> Grant:
        asked_at = self._stack.clock()
        body = {"access": access, "durationInSeconds": seconds}
        result = self._stack.post(f"{resource_id}/beginGetAccess", body)
        url = result.get("accessSAS")
        if not isinstance(url, str) or not url:
            raise UnsupportedStack(
                f"beginGetAccess of {resource_id} ended well, but without an accessSAS: "
                "choose the API profile that matches the stack"
            )
        self._stack.on_secret(url)
        return Grant(Secret(url), asked_at, seconds)


def power_state(vm: Mapping[str, Any]) -> str:
    """Return ``running``, ``deallocated``... of a VM read with its instance view, or nothing."""
    view = (vm.get("properties") or {}).get("instanceView") or {}
    codes = [str(status.get("code", "")) for status in view.get("statuses") or ()]
    states = [code.split("/", 1)[1] for code in codes if code.lower().startswith("powerstate/")]
    return states[0].lower() if states else ""


def _state(resource: Mapping[str, Any]) -> str:
    return str((resource.get("properties") or {}).get("provisioningState", "")).lower()


def _require_ours(
    snapshot: Mapping[str, Any], snapshot_id: str, source_id: str, tags: Mapping[str, str]
) -> None:
    creation = (snapshot.get("properties") or {}).get("creationData") or {}
    same_source = str(creation.get("sourceResourceId", "")).lower() == source_id.lower()
    has = snapshot.get("tags") or {}
    if not same_source or any(has.get(name) != value for name, value in tags.items()):
        raise Refused(
            f"a snapshot {snapshot_id} exists that is not of {source_id} or not of this run: "
            "it was left alone; rename or delete it"
        )
