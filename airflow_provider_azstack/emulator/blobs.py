"""
How page blobs come and go: containers, empty blobs, snapshots, deletion, listings.

Owns the life of blobs; knows no VMs, and nothing of what pages hold.
Invariant: a snapshot is frozen at once, and never changes after that.
"""

from airflow_provider_azstack.emulator import page_lists, sequence, signatures
from airflow_provider_azstack.emulator.blob_calls import (
    blob_not_found,
    blob_of,
    check_lease,
    key_of,
    metadata_of,
    written,
)
from airflow_provider_azstack.emulator.http import Answer, Call, Problem, escape
from airflow_provider_azstack.emulator.layers import Volume
from airflow_provider_azstack.emulator.state import Blob, BlobSnapshot, World, stamp


def put_blob(world: World, call: Call) -> Answer:
    """``PUT`` an empty page blob."""
    signatures.check_account(world, call, "cw")
    key = key_of(call)
    size = call.number("x-ms-blob-content-length")
    if call.header("x-ms-blob-type") != "PageBlob":
        raise Problem(400, "InvalidHeaderValue", "Only page blobs live here.")
    if size % 512 or not 0 <= size <= 1 << 40:
        raise Problem(400, "InvalidHeaderValue", "HeaderName: x-ms-blob-content-length")
    if key[:2] not in world.containers:
        raise Problem(404, "ContainerNotFound", "The specified container does not exist.")
    if key in world.blobs:
        check_lease(world.blobs[key], call)
        if call.header("If-None-Match") == "*":
            raise Problem(409, "BlobAlreadyExists", "The specified blob already exists.")
    volume = Volume(world.layers, size)
    number = sequence.first(call) if world.behaviour.sequence_numbers else 0
    blob = Blob(volume, world.etag(), world.clock(), metadata_of(call), sequence=number)
    world.blobs[key] = blob
    return written(blob.etag, blob.modified)


def snapshot(world: World, call: Call) -> Answer:
    """``PUT ?comp=snapshot``: at once, whatever the size, and no matter who holds the lease."""
    signatures.check_account(world, call, "cw")
    blob = blob_of(world, call)
    if len(blob.snapshots) >= world.behaviour.snapshots_per_blob:
        raise Problem(
            409, "SnapshotCountExceeded", "The snapshot count against this blob is exceeded."
        )
    metadata = metadata_of(call) or dict(blob.metadata)
    with blob.volume.lock:  # two at once get two names
        name = _unused_time(world, blob)
        frozen = blob.volume.freeze()
        blob.snapshots[name] = BlobSnapshot(
            frozen, blob.etag, blob.modified, metadata, blob.sequence
        )
    answer = written(blob.etag, blob.modified)
    answer.headers["x-ms-snapshot"] = name
    return answer


def _unused_time(world: World, blob: Blob) -> str:
    ticks = int(world.clock() * 1e6)
    while (name := stamp(ticks / 1e6).replace("+00:00", "Z")) in blob.snapshots:
        ticks += 1
    return name


def delete_blob(world: World, call: Call) -> Answer:
    """``DELETE`` a blob or one snapshot."""
    signatures.check_account(world, call, "d")
    blob = blob_of(world, call)
    if "snapshot" in call.query:
        if blob.snapshots.pop(call.query["snapshot"], None) is None:
            raise blob_not_found()
        return Answer(202)
    choice = call.header("x-ms-delete-snapshots")
    if choice == "only":
        blob.snapshots.clear()
        return Answer(202)
    check_lease(blob, call)
    if blob.snapshots and choice != "include":
        raise Problem(
            409, "SnapshotsPresent", "This operation is not permitted while the blob has snapshots."
        )
    del world.blobs[key_of(call)]
    return Answer(202)


def lease(world: World, call: Call) -> Answer:
    """``PUT ?comp=lease``: attached VHDs are leased for ever; nobody here should ask."""
    signatures.check_account(world, call, "w")
    if blob_of(world, call).leased_by:
        raise Problem(409, "LeaseAlreadyPresent", "There is already a lease present.")
    raise Problem(501, "NotImplemented", "Leases are only taken by virtual machines here.")


def put_container(world: World, call: Call) -> Answer:
    """``PUT ?restype=container``."""
    signatures.check_account(world, call, "cw")
    key = (call.params["account"], call.params["container"])
    if key in world.containers:
        raise Problem(409, "ContainerAlreadyExists", "The specified container already exists.")
    world.containers.add(key)
    return written(world.etag(), world.clock())


def list_blobs(world: World, call: Call) -> Answer:
    """``GET ?restype=container&comp=list``, with snapshots and metadata when asked for."""
    signatures.check_account(world, call, "l")
    account, container = call.params["account"], call.params["container"]
    if (account, container) not in world.containers:
        raise Problem(404, "ContainerNotFound", "The specified container does not exist.")
    include = set(call.query.get("include", "").split(","))
    prefix = call.query.get("prefix", "")
    entries: list[str] = []
    for key, blob in sorted(world.blobs.items()):
        if key[:2] == (account, container) and key[2].startswith(prefix):
            entries += page_lists.blob_entries(key[2], blob, include)
    limit = min(int(call.query.get("maxresults") or 5000), 5000)
    start = int(call.query.get("marker") or 0)
    marker = str(start + limit) if start + limit < len(entries) else ""
    endpoint = f'ServiceEndpoint="{world.blob_url}/{account}/"'
    head = f'<EnumerationResults {endpoint} ContainerName="{escape(container)}">'
    listing = "".join(entries[start : start + limit])
    return page_lists.answer(
        f"{head}<Blobs>{listing}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    )
