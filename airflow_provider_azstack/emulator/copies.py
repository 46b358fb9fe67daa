"""
Copies of blobs that the service makes itself: ``Copy Blob``.

Owns finding the source and the right to read it; a copy shares its source's layers and costs
nothing. Invariant: what is copied is what the source is at that moment, its sequence number too; a
source that the request gives no right to is never copied.
"""

from urllib.parse import urlsplit

from airflow_provider_azstack.emulator import blobs, signatures
from airflow_provider_azstack.emulator.blob_calls import (
    find,
    key_of,
    metadata_of,
    written,
)
from airflow_provider_azstack.emulator.disks import content_of
from airflow_provider_azstack.emulator.http import Answer, Call, Problem
from airflow_provider_azstack.emulator.layers import Content, Volume
from airflow_provider_azstack.emulator.state import Blob, World


def put_blob(world: World, call: Call) -> Answer:
    """``PUT`` a blob: an empty one, or a copy of another."""
    if not call.header("x-ms-copy-source"):
        return blobs.put_blob(world, call)
    signatures.check_account(world, call, "cw")
    if not world.behaviour.copy_from_url:
        raise Problem(409, "CopySourceNotSupported", "Blobs are not copied from there.")
    key = key_of(call)
    if key[:2] not in world.containers:
        raise Problem(404, "ContainerNotFound", "The specified container does not exist.")
    if key in world.blobs:
        raise Problem(409, "BlobAlreadyExists", "The specified blob already exists.")
    content, number = _source(world, call)
    if world.behaviour.copies_fail:  # "Copy Blob": it leaves a blob of no length behind
        volume, status = Volume(world.layers, 0), "failed"
    else:
        volume, status = Volume(world.layers, content.size_bytes, content.layer), "success"
    metadata = metadata_of(call)
    blob = Blob(volume, world.etag(), world.clock(), metadata, copy_status=status, sequence=number)
    world.blobs[key] = blob
    answer = written(blob.etag, blob.modified)
    answer.status = 202
    answer.headers |= {"x-ms-copy-id": blob.etag.strip('"'), "x-ms-copy-status": "pending"}
    return answer


def _source(world: World, call: Call) -> tuple[Content, int]:
    url = call.header("x-ms-copy-source")
    if not url.startswith(f"{world.blob_url}/"):
        raise Problem(404, "CannotVerifyCopySource", "The source is of another stack.")
    asked = Call("GET", url.removeprefix(world.blob_url), {}, b"", world.blob_url)
    parts = urlsplit(asked.target).path.lstrip("/").split("/", 2)
    try:
        if parts[0].startswith("md-"):
            grant = signatures.living_grant(world, asked.path, asked.query)
            return content_of(grant.resource, freeze=True), 0
        asked.params = dict(zip(("account", "container", "blob"), parts, strict=True))
        signatures.check_account(world, asked, "r")
        found = find(world, asked)
    except Problem:
        raise Problem(
            404, "CannotVerifyCopySource", "The source does not exist, or may not be read."
        ) from None
    if "snapshot" not in asked.query:
        raise Problem(409, "CopySourceNotSupported", "Only snapshots are copied here.")
    return found.content, found.sequence
