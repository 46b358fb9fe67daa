"""
Managed disks and snapshots: creation, sizes, states.

Owns the life of managed disks and snapshots; knows neither VMs nor how bytes travel.
Invariant: what is exported cannot be deleted.
"""

import math
import uuid

from airflow_provider_azstack.emulator import operations, resources, vhd
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.layers import Content, Volume
from airflow_provider_azstack.emulator.state import Resource, World, body

DISKS = "Microsoft.Compute/disks"
SNAPSHOTS = "Microsoft.Compute/snapshots"
_TIERS = {"Standard_LRS": "Standard", "Premium_LRS": "Premium"}
# Azure/azure-rest-api-specs, Microsoft.Compute/stable/2019-03-01/disk.json: the size of an upload
# and "incremental" came with it.
_UPLOADS_SINCE = "2019-03-01"
_MEMBERS = {
    "DiskProperties": {
        "timeCreated", "osType", "hyperVGeneration", "creationData", "diskSizeGB", "diskSizeBytes",
        "uniqueId", "encryptionSettingsCollection", "provisioningState", "diskIOPSReadWrite",
        "diskMBpsReadWrite", "diskState", "encryption", "incremental",
    },
    "CreationData": {
        "createOption", "storageAccountId", "imageReference", "sourceUri", "sourceResourceId",
        "sourceUniqueId", "uploadSizeBytes",
    },
}  # fmt: skip
_LATE_MEMBERS = {"hyperVGeneration", "incremental", "encryption", "uploadSizeBytes"}
_LATE = {"diskState", "diskSizeBytes", "uniqueId", "encryption", "hyperVGeneration"}


def new_volume(world: World, size_bytes: int, unique_id: str) -> Volume:
    """Make an empty disk with a VHD footer behind it."""
    volume = Volume(world.layers, size_bytes + vhd.FOOTER)
    volume.write(size_bytes, vhd.footer(size_bytes, uuid.UUID(unique_id), world.clock()))
    return volume


def resize_volume(world: World, volume: Volume, size_bytes: int, unique_id: str) -> None:
    """Grow or shrink a disk: the footer moves to its new end."""
    with volume.lock:
        old = volume.size_bytes - vhd.FOOTER
        if old < size_bytes:
            volume.write(old, bytes(vhd.FOOTER))
        volume.size_bytes = size_bytes + vhd.FOOTER
        volume.write(size_bytes, vhd.footer(size_bytes, uuid.UUID(unique_id), world.clock()))


def add_disk(world: World, disk_id: str, sent: Json, volume: Volume) -> Resource:
    """Remember a managed disk whose content is there already."""
    unique_id = str(uuid.uuid4())
    made = body(disk_id, DISKS, world.location, sent, sku=_sku(sent))
    made["properties"] = _properties(world, sent, volume.size_bytes - vhd.FOOTER, unique_id)
    resource = Resource(made, volume=volume, settings={"etag": world.etag()})
    _settle_resource(resource, "Unattached")
    return world.add(resource)


def _sku(sent: Json) -> Json:
    name = (sent.get("sku") or {}).get("name", "Standard_LRS")
    if name not in _TIERS:
        raise Problem(400, "InvalidParameter", f"SKU {name} is not supported.")
    return {"name": name, "tier": _TIERS[name]}


def _properties(world: World, sent: Json, size_bytes: int, unique_id: str) -> Json:
    given = sent["properties"]
    kept = {name: given[name] for name in ("osType", "hyperVGeneration") if name in given}
    return {
        **kept,
        "creationData": dict(given["creationData"]),
        "diskSizeGB": math.ceil(size_bytes / (1 << 30)),
        "diskIOPSReadWrite": 500,
        "diskMBpsReadWrite": 60,
        "encryption": {"type": "EncryptionAtRestWithPlatformKey"},
        "timeCreated": world.now(),
        "diskSizeBytes": size_bytes,
        "uniqueId": unique_id,
    }


def _settle_resource(resource: Resource, state: str) -> Json:
    resource.properties["provisioningState"] = "Succeeded"
    resource.properties["diskState"] = state
    return resource.body


def show(resource: Resource, call: Call) -> Json:
    """Return a disk's or snapshot's body; old api-versions do not know all of it."""
    if call.query["api-version"] >= _UPLOADS_SINCE:
        return resource.body
    kept = {k: v for k, v in resource.properties.items() if k not in _LATE}
    return {**resource.body, "properties": kept}


def get(world: World, call: Call) -> Answer:
    """``GET`` one disk or snapshot."""
    return json_answer(200, show(resources.target(world, call, type_of(call)), call))


def list_all(world: World, call: Call) -> Answer:
    """``GET`` the disks or snapshots of the subscription or of a group."""
    under = f"{resources.group_id(world, call)}/" if "group" in call.params else world.scope
    return resources.page(
        world, call, (show(found, call) for found in world.of_type(type_of(call), under))
    )


def type_of(call: Call) -> str:
    """Return the type of what the call's path names."""
    return SNAPSHOTS if "/snapshots" in call.path.lower().split("/providers/")[1] else DISKS


def put(world: World, call: Call) -> Answer:
    """``PUT`` a disk or a snapshot: create it, or change its tags and size."""
    resources.check_name(call)
    path, sent = resources.resource_id(world, call, type_of(call)), call.json()
    if not sent.get("location"):
        raise Problem(400, "LocationRequired", "The location property is required.")
    given = sent.get("properties") or {}
    found = world.find(path)
    if found:
        return _update(world, call, found, sent)
    if not isinstance(given.get("creationData"), dict):
        raise Problem(400, "InvalidParameter", "Required parameter 'creationData' is missing.")
    if given.get("incremental"):
        raise Problem(400, "InvalidParameter", "Incremental snapshots are not supported.")
    _check_members(call, given)
    return _create(world, call, path, sent)


def _check_members(call: Call, given: Json) -> None:
    """
    Refuse what the api-version does not know, in a stack's own words.

    github.com/kubernetes-sigs/azuredisk-csi-driver/issues/957
    """
    late = _LATE_MEMBERS if call.query["api-version"] < _UPLOADS_SINCE else set()
    for kind, there in (("DiskProperties", given), ("CreationData", given["creationData"])):
        if unknown := set(there) - (_MEMBERS[kind] - late):
            name = min(unknown)
            raise Problem(
                400,
                "BadRequest",
                f"Could not find member '{name}' on object of type '{kind}'. "
                f"Path 'properties.{name}', line 1, position 1.",
            )


def _create(world: World, call: Call, path: str, sent: Json) -> Answer:
    kind = "snapshots" if type_of(call) == SNAPSHOTS else "disks"
    resource = _snapshot(world, path, sent) if kind == "snapshots" else _disk(world, path, sent)
    early = {**resource.body, "sku": {"name": resource.body["sku"]["name"]}}
    early["properties"] = {"creationData": sent["properties"]["creationData"]}
    early["properties"]["provisioningState"] = "Updating"
    resource.properties["provisioningState"] = "Creating"
    world.add(resource)
    state = resource.properties["diskState"]

    def fail() -> None:
        resource.properties["provisioningState"] = "Failed"

    return operations.start(
        world,
        call,
        f"{kind}.write",
        lambda: _settle_resource(resource, state),
        body=early,
        fail=fail,
    )


def _snapshot(world: World, path: str, sent: Json) -> Resource:
    creation = sent["properties"]["creationData"]
    _check_option(creation, {"Copy", "Empty"})
    if sum(1 for _ in world.of_type(SNAPSHOTS)) >= world.behaviour.snapshot_quota:
        raise _quota("snapshots", world.behaviour.snapshot_quota)
    resource = Resource(body(path, SNAPSHOTS, world.location, sent, sku=_sku(sent)))
    unique_id = str(uuid.uuid4())
    if creation["createOption"] == "Empty":
        resource.content = new_volume(world, _asked_size(sent), unique_id).freeze()
        source_properties: Json = {}
    else:
        source = _source(world, creation)
        resource.content = content_of(source, freeze=True)
        source_properties = source.properties
    size_bytes = resource.content.size_bytes - vhd.FOOTER
    made = _properties(world, _inherit(sent, source_properties), size_bytes, unique_id)
    limits = {"diskIOPSReadWrite", "diskMBpsReadWrite"}  # of disks only
    kept = {name: value for name, value in made.items() if name not in limits}
    resource.body["properties"] = {**kept, "incremental": False, "diskState": "Unattached"}
    resource.settings["etag"] = world.etag()
    return resource


def _disk(world: World, path: str, sent: Json) -> Resource:
    creation = sent["properties"]["creationData"]
    options = {"Copy", "Empty", "Import"} | ({"Upload"} if world.behaviour.upload else set())
    _check_option(creation, options)
    unique_id, state, source_properties = str(uuid.uuid4()), "Unattached", {}
    match creation["createOption"]:
        case "Copy":
            source = _source(world, creation)
            source_properties = source.properties
            frozen = content_of(source, freeze=True)
            volume = Volume(world.layers, frozen.size_bytes, frozen.layer)
        case "Import":
            volume = _imported(world, creation)
        case "Upload":
            volume, state = _uploadable(world, creation), "ReadyToUpload"
        case _:
            volume = new_volume(world, _asked_size(sent), unique_id)
    size_bytes = volume.size_bytes - vhd.FOOTER
    used = sum(int(d.properties["diskSizeBytes"]) for d in world.of_type(DISKS))
    if used + size_bytes > world.behaviour.disk_quota_bytes:
        raise _quota("managed disk bytes", world.behaviour.disk_quota_bytes)
    resource = Resource(body(path, DISKS, world.location, sent, sku=_sku(sent)), volume=volume)
    made = _properties(world, _inherit(sent, source_properties), size_bytes, unique_id)
    resource.body["properties"] = {**made, "diskState": state}
    resource.settings["etag"] = world.etag()
    return resource


def _check_option(creation: Json, options: set[str]) -> None:
    if creation.get("createOption") not in options:
        raise Problem(
            400,
            "InvalidParameter",
            f"The value '{creation.get('createOption')}' of parameter "
            f"'creationData.createOption' is not one of {', '.join(sorted(options))}.",
        )


def _source(world: World, creation: Json) -> Resource:
    source = world.get(str(creation.get("sourceResourceId", "")))
    if source.body["type"] not in {DISKS, SNAPSHOTS}:
        raise Problem(400, "InvalidParameter", "The source is neither a disk nor a snapshot.")
    action = f"{source.body['type']}/beginGetAccess/action"
    if action in world.behaviour.denied:
        raise Problem(
            403,
            "LinkedAuthorizationFailed",
            f"The client has permission to write, but not to perform action '{action}' "
            f"on the linked scope '{source.id}'.",
        )
    if source.properties["provisioningState"] != "Succeeded":
        raise Problem(409, "OperationNotAllowed", f"The source '{source.id}' is not ready.")
    return source


def _inherit(sent: Json, source: Json) -> Json:
    given = sent["properties"]
    traits = {k: source[k] for k in ("osType", "hyperVGeneration") if k in source}
    creation = dict(given["creationData"])
    if "uniqueId" in source:
        creation["sourceUniqueId"] = source["uniqueId"]
    return {"properties": {**traits, **given, "creationData": creation}}


def content_of(source: Resource, *, freeze: bool) -> Content:
    """Return what a disk or snapshot holds; frozen for good, or as it goes on changing."""
    if source.volume:
        return source.volume.freeze() if freeze else source.volume.content()
    assert source.content  # noqa: S101  a managed resource has a volume or a content
    return source.content


def _asked_size(sent: Json) -> int:
    size = sent["properties"].get("diskSizeGB")
    if not isinstance(size, int) or not 1 <= size <= 1023:
        raise Problem(400, "InvalidParameter", "diskSizeGB must be between 1 and 1023.")
    return size << 30


def _uploadable(world: World, creation: Json) -> Volume:
    size = creation.get("uploadSizeBytes")
    if not isinstance(size, int) or (size - vhd.FOOTER) % (1 << 20) or size <= vhd.FOOTER:
        raise Problem(
            400, "InvalidParameter", "uploadSizeBytes must be a multiple of 1 MiB plus 512 bytes."
        )
    return Volume(world.layers, size)


def _imported(world: World, creation: Json) -> Volume:
    uri = str(creation.get("sourceUri", ""))
    key = tuple(uri.removeprefix(f"{world.blob_url}/").split("?")[0].split("/", 2))
    account = str(creation.get("storageAccountId", "")).rpartition("/")[2]
    blob = world.blobs.get(key) if len(key) == 3 and key[0] == account else None  # type: ignore[call-overload]
    if blob is None:
        raise Problem(400, "InvalidParameter", "sourceUri names no blob of storageAccountId.")
    frozen: Content = blob.volume.freeze()
    size_bytes = frozen.size_bytes - vhd.FOOTER
    wrong = vhd.check(frozen.read(size_bytes, vhd.FOOTER), size_bytes)
    if wrong or size_bytes % (1 << 20):
        raise Problem(400, "InvalidVhd", f"The blob is no VHD of whole MiB: {wrong}.")
    return Volume(world.layers, frozen.size_bytes, frozen.layer)


def _quota(what: str, limit: int) -> Problem:
    return Problem(
        409,
        "QuotaExceeded",
        f"Operation could not be completed as it results in exceeding the quota of {limit} {what}.",
    )


def _update(world: World, call: Call, found: Resource, sent: Json) -> Answer:
    given = sent.get("properties") or {}
    asked = given.get("creationData") or found.properties["creationData"]
    for name in ("createOption", "sourceResourceId"):
        old = str(found.properties["creationData"].get(name, ""))
        if str(asked.get(name, "")).lower() != old.lower():
            raise Problem(
                409,
                "PropertyChangeNotAllowed",
                f"Changing property 'creationData.{name}' is not allowed.",
            )
    found.body["tags"] = dict(sent.get("tags") or {})
    size_gb = given.get("diskSizeGB")
    if found.volume and size_gb and size_gb != found.properties["diskSizeGB"]:
        resize(world, found, _asked_size(sent))
    kind = "disks" if found.volume else "snapshots"
    return operations.start(world, call, f"{kind}.write", lambda: found.body, body=found.body)


def resize(world: World, disk: Resource, size_bytes: int) -> None:
    """Grow a managed disk."""
    if size_bytes < disk.properties["diskSizeBytes"]:
        raise Problem(409, "OperationNotAllowed", "Shrinking a disk is not allowed.")
    assert disk.volume  # noqa: S101  only disks are resized
    resize_volume(world, disk.volume, size_bytes, disk.properties["uniqueId"])
    disk.properties["diskSizeBytes"] = size_bytes
    disk.properties["diskSizeGB"] = math.ceil(size_bytes / (1 << 30))


def delete(world: World, call: Call) -> Answer:
    """``DELETE`` a disk or snapshot; nothing there is 204."""
    found = world.find(resources.resource_id(world, call, type_of(call)))
    if found is None:
        return Answer(204)
    if world.active_grant(found):
        raise exported(found)
    if found.body.get("managedBy"):
        raise Problem(
            409,
            "OperationNotAllowed",
            f"Disk {found.body['name']} is attached to VM {found.body['managedBy']}.",
        )
    kind = "disks" if found.volume else "snapshots"
    return operations.start(world, call, f"{kind}.delete", lambda: world.remove(found))


def exported(resource: Resource) -> Problem:
    """Return the refusal of what a living grant is in the way of."""
    return Problem(
        409,
        "OperationNotAllowed",
        f"There is an active shared access signature outstanding for disk "
        f"{resource.body['name']}. Call EndGetAccess before attaching or deleting the disk.",
    )
