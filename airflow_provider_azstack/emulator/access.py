"""
Access to managed disks and snapshots: signed URLs, for so long.

Owns what is granted, and what ending it does to an upload; knows not how bytes travel.
Invariant: the content of a managed disk is reachable only through a living grant.
"""

import base64
import secrets
import uuid
from urllib.parse import quote

from airflow_provider_azstack.emulator import disks, operations, resources, vhd
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem
from airflow_provider_azstack.emulator.layers import Volume
from airflow_provider_azstack.emulator.state import Grant, Resource, World

# Azure/azure-rest-api-specs, Microsoft.Compute/stable/2018-09-30/disk.json: "Write" came with it.
_WRITES_SINCE = "2018-09-30"


def begin_get_access(world: World, call: Call) -> Answer:
    """``POST .../beginGetAccess``: a signed URL, for so many seconds."""
    resource, sent = resources.target(world, call, disks.type_of(call)), call.json()
    access, seconds = sent.get("access"), sent.get("durationInSeconds")
    levels = {"Read", "Write"} if call.query["api-version"] >= _WRITES_SINCE else {"Read"}
    if access not in levels or not isinstance(seconds, int) or seconds < 1:
        raise Problem(400, "InvalidParameter", "access or durationInSeconds is invalid.")
    _check_grantable(world, resource, access)
    kind = "disks" if resource.volume else "snapshots"

    def finish() -> Json:
        return {"accessSAS": _grant(world, resource, access, seconds)}

    return operations.start(world, call, f"{kind}.beginGetAccess", finish)


def _check_grantable(world: World, resource: Resource, access: str) -> None:
    state = resource.properties["diskState"]
    if resource.properties["provisioningState"] != "Succeeded":
        raise Problem(409, "OperationNotAllowed", "The resource is not ready.")
    if world.active_grant(resource) and world.behaviour.second_grant == "refused":
        raise disks.exported(resource)
    if access == "Write" and state not in {"ReadyToUpload", "ActiveUpload"}:
        raise Problem(409, "OperationNotAllowed", f"Write access is refused in state {state}.")
    if access == "Read" and state in {"Attached", "ReadyToUpload", "ActiveUpload"}:
        raise Problem(409, "OperationNotAllowed", f"Read access is refused in state {state}.")


def _grant(world: World, resource: Resource, access: str, seconds: int) -> str:
    identifier = str(uuid.uuid4())
    signature = base64.b64encode(secrets.token_bytes(32)).decode()
    host, container = f"md-{secrets.token_hex(6)}", secrets.token_hex(6)
    path = f"/{host}/{container}/abcd"
    world.grants[identifier] = Grant(resource, access, signature, world.clock() + seconds, path)
    state = resource.properties["diskState"]
    if state != "ActiveSAS":
        resource.settings["state before grant"] = state
    resource.properties["diskState"] = "ActiveSAS" if access == "Read" else "ActiveUpload"
    return (
        f"{world.blob_url}{path}?sv=2018-03-28&sr=b&si={identifier}&sig={quote(signature, safe='')}"
    )


def end_get_access(world: World, call: Call) -> Answer:
    """``POST .../endGetAccess``: every grant of the resource dies."""
    resource = resources.target(world, call, disks.type_of(call))
    kind = "disks" if resource.volume else "snapshots"
    if resource.volume and resource.properties["diskState"] == "ActiveUpload":
        _check_upload(world, resource, resource.volume)
    return operations.start(world, call, f"{kind}.endGetAccess", lambda: revoke(world, resource))


def _check_upload(world: World, disk: Resource, volume: Volume) -> None:
    """Refuse to finish what is no VHD (github.com/microsoft/AzureStorageExplorer/issues/8612)."""
    size_bytes = volume.size_bytes - vhd.FOOTER
    wrong = vhd.check(volume.content().read(size_bytes, vhd.FOOTER), size_bytes)
    if wrong:
        revoke(world, disk)
        disk.properties["diskState"] = "ReadyToUpload"  # it can be written anew, or deleted
        raise Problem(400, "InvalidVhd", f"The disk is not a supported VHD: {wrong}.")


def revoke(world: World, resource: Resource) -> None:
    """Kill the grants of a resource."""
    for identifier, grant in list(world.grants.items()):
        if grant.resource is resource:
            del world.grants[identifier]
    state = resource.properties["diskState"]
    if state == "ActiveSAS":
        resource.properties["diskState"] = resource.settings.pop("state before grant", "Unattached")
    elif state == "ActiveUpload":
        resource.properties["diskState"] = "Unattached"
