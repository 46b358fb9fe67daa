"""
The blob service: page blobs of storage accounts, and managed disks through their grants.

Owns reading, creation, snapshots and listing of page blobs; knows no VMs.
Invariant: a range is served from one content, so a snapshot's answers never change.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from airflow_provider_azstack.emulator import page_lists, sequence, signatures
from airflow_provider_azstack.emulator.disks import content_of
from airflow_provider_azstack.emulator.http import (
    Answer,
    Call,
    Extract,
    Problem,
    escape,
    http_date,
)
from airflow_provider_azstack.emulator.layers import Content, Volume
from airflow_provider_azstack.emulator.state import Blob, BlobSnapshot, World, stamp

MAX_MD5 = 4 << 20
_CONDITIONS = (
    "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
    "x-ms-if-sequence-number-le", "x-ms-if-sequence-number-lt", "x-ms-if-sequence-number-eq",
)  # fmt: skip


@dataclass
class Found:
    """The blob, snapshot or managed disk that a request means."""

    content: Content
    etag: str
    modified: float
    metadata: dict[str, str]
    leased: bool = False
    copy_status: str = ""
    sequence: int = 0
    created: float | None = None


def get_blob(world: World, call: Call) -> Answer:
    """``GET`` or ``HEAD`` a blob or one of its snapshots."""
    signatures.check_account(world, call, "r")
    return _read(call, find(world, call))


def get_managed(world: World, call: Call) -> Answer:
    """``GET`` or ``HEAD`` a managed disk or snapshot through its grant."""
    return _read(call, _granted(world, call, {"Read", "Write"}))


def list_pages(world: World, call: Call) -> Answer:
    """``GET ?comp=pagelist`` of a blob, or its difference to ``prevsnapshot``."""
    signatures.check_account(world, call, "r")
    found = find(world, call)
    since = None
    mode = world.behaviour.blob_differences
    if "prevsnapshot" in call.query and mode == "refused":
        raise Problem(400, "UnsupportedQueryParameter", "prevsnapshot is not supported.")
    if "prevsnapshot" in call.query and mode == "supported":
        previous = blob_of(world, call).snapshots.get(call.query["prevsnapshot"])
        if previous is None:
            raise Problem(409, "PreviousSnapshotNotFound", "The previous snapshot is not found.")
        since = previous.content
    return _page_list(world, call, found, since)


def list_managed_pages(world: World, call: Call) -> Answer:
    """``GET ?comp=pagelist`` of a managed disk; a header names the previous snapshot's grant."""
    found = _granted(world, call, {"Read"})
    url = call.header("x-ms-previous-snapshot-url")
    since = None
    mode = world.behaviour.managed_differences
    if url and mode == "refused":
        raise Problem(501, "NotImplemented", "x-ms-previous-snapshot-url is not supported.")
    if url and mode == "supported":
        since = _previous(world, call, url)
    return _page_list(world, call, found, since)


def _previous(world: World, call: Call, url: str) -> Content:
    if signatures.check_version(call) < "2019-07-07":
        raise Problem(400, "UnsupportedHeader", "x-ms-previous-snapshot-url needs 2019-07-07.")
    previous = Call("GET", url.removeprefix(world.blob_url), {}, b"", world.blob_url)
    try:
        grant = signatures.living_grant(world, previous.path, previous.query)
    except Problem:
        raise Problem(
            409, "PreviousSnapshotNotFound", "The previous snapshot's URL grants no access."
        ) from None
    return content_of(grant.resource, freeze=False)


def put_blob(world: World, call: Call) -> Answer:
    """``PUT`` an empty page blob."""
    signatures.check_account(world, call, "cw")
    key = key_of(call)
    size = _number(call, "x-ms-blob-content-length")
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
            raise _blob_not_found()
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
    return _xml(
        f"{head}<Blobs>{listing}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    )


def _read(call: Call, found: Found) -> Answer:
    _check_conditions(call, found)
    size = found.content.size_bytes
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": found.etag,
        "Last-Modified": http_date(found.modified),
        "x-ms-blob-type": "PageBlob",
        sequence.HEADER: str(found.sequence),
        "Accept-Ranges": "bytes",
        "x-ms-lease-state": "leased" if found.leased else "available",
        "x-ms-lease-status": "locked" if found.leased else "unlocked",
        **({"x-ms-lease-duration": "infinite"} if found.leased else {}),
        **({"x-ms-copy-status": found.copy_status} if found.copy_status else {}),
        **({} if found.created is None else {"x-ms-creation-time": http_date(found.created)}),
        **{f"x-ms-meta-{name}": value for name, value in found.metadata.items()},
    }
    if call.method == "HEAD":
        return Answer(200, {**headers, "Content-Length": str(size)})
    window = range_of(call, size)
    if window is None:
        return Answer(200, headers, Extract(found.content, 0, size))
    start, end = window
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    extract = Extract(found.content, start, end - start)
    if call.header("x-ms-range-get-content-md5").lower() == "true":
        if end - start > MAX_MD5:
            raise Problem(400, "OutOfRangeInput", "MD5 of a range is limited to 4 MiB.")
        digest = hashlib.md5(extract.read(), usedforsecurity=False).digest()
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return Answer(206, headers, extract)


def range_of(call: Call, size: int) -> tuple[int, int] | None:
    """Return from where to where a request asks, or None when it asks for all."""
    text = call.header("x-ms-range") or call.header("Range")
    if not text:
        return None
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", text)
    if not match:
        raise Problem(400, "InvalidHeaderValue", "HeaderName: x-ms-range")
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise Problem(
            416, "InvalidRange", "The range specified is invalid for the resource's size."
        )
    return start, end


def _page_list(world: World, call: Call, found: Found, since: Content | None) -> Answer:
    _check_conditions(call, found)
    size = found.content.size_bytes
    start, end = range_of(call, size) or (0, size)
    if end - start > world.behaviour.page_list_limit_bytes:
        raise Problem(500, "OperationTimedOut", "Operation could not be completed in time.")
    if since is None:
        stretches = found.content.allocated(start, end - start)
    else:
        try:
            stretches = found.content.changed(since, start, end - start)
        except LookupError as error:
            raise Problem(409, "PreviousSnapshotCannotBeNewer", str(error)) from None
    answer = _xml(page_lists.page_list(stretches))
    answer.headers |= {
        "ETag": found.etag,
        "Last-Modified": http_date(found.modified),
        "x-ms-blob-content-length": str(size),
    }
    return answer


def _check_conditions(call: Call, found: Found) -> None:
    check_etag(call, found.etag)
    if call.header("If-None-Match") == found.etag:
        raise Problem(304, "ConditionNotMet", "The blob has not changed.")


def check_etag(call: Call, etag: str) -> None:
    """Refuse a request that means another state of a blob."""
    if call.header("If-Match") not in {"", "*", etag}:
        raise Problem(
            412,
            "ConditionNotMet",
            "The condition specified using HTTP conditional header(s) is not met.",
        )


def touched(world: World, blob: Blob) -> Answer:
    """Give a changed blob a new ETag, and return the answer."""
    blob.etag, blob.modified = world.etag(), world.clock()
    return written(blob.etag, blob.modified)


def check_lease(blob: Blob, call: Call) -> None:
    """Refuse a change of a blob that another one has leased."""
    if blob.leased_by and call.header("x-ms-lease-id") != blob.leased_by:
        raise Problem(
            412,
            "LeaseIdMissing",
            "The blob is leased and no lease ID was specified.",
        )


def check_disk_headers(world: World, call: Call) -> None:
    """
    Refuse what a managed disk's access does not take, and a blob does.

    Conditions: github.com/Azure/azure-storage-azcopy, ste/downloader-blob.go. The code is of the
    list of common errors of the REST API.
    """
    if any(call.header(name) for name in _CONDITIONS):
        raise Problem(400, "ConditionHeadersNotSupported", "Condition headers are not supported.")
    checksum = call.header("Content-MD5") or call.header("x-ms-range-get-content-md5")
    if checksum and not world.behaviour.disk_checksums:
        raise Problem(400, "UnsupportedHeader", "One of the HTTP headers is not supported.")


def _granted(world: World, call: Call, access: set[str]) -> Found:
    grant = signatures.grant_of(world, call)
    check_disk_headers(world, call)
    if grant.access not in access:
        raise Problem(403, "AuthorizationPermissionMismatch", "The grant does not permit this.")
    settings = grant.resource.settings
    modified = settings.setdefault("modified", world.clock())
    return Found(content_of(grant.resource, freeze=False), settings["etag"], modified, {})


def key_of(call: Call) -> tuple[str, str, str]:
    """Return account, container and name."""
    return call.params["account"], call.params["container"], call.params["blob"]


def blob_of(world: World, call: Call) -> Blob:
    """Return the blob that a request names."""
    found = world.blobs.get(key_of(call))
    if found is None:
        raise _blob_not_found()
    return found


def find(world: World, call: Call) -> Found:
    """Return the blob or the snapshot that a request means."""
    blob = blob_of(world, call)
    if "snapshot" not in call.query:
        return Found(
            blob.volume.content(),
            blob.etag,
            blob.modified,
            blob.metadata,
            bool(blob.leased_by),
            blob.copy_status,
            blob.sequence,
            blob.created,
        )
    found = blob.snapshots.get(call.query["snapshot"])
    if found is None:
        raise _blob_not_found()
    return Found(
        found.content,
        found.etag,
        found.modified,
        found.metadata,
        sequence=found.sequence,
        created=blob.created,
    )


def _blob_not_found() -> Problem:
    return Problem(404, "BlobNotFound", "The specified blob does not exist.")


def metadata_of(call: Call) -> dict[str, str]:
    """Return the metadata that a request sends."""
    prefix = "x-ms-meta-"
    return {
        name.removeprefix(prefix): value
        for name, value in call.headers.items()
        if name.startswith(prefix)
    }


def _number(call: Call, header: str) -> int:
    text = call.header(header)
    if not text.isdigit():
        raise Problem(400, "InvalidHeaderValue", f"HeaderName: {header}")
    return int(text)


def written(etag: str, modified: float) -> Answer:
    """Return the answer to what changed a blob."""
    return Answer(201, {"ETag": etag, "Last-Modified": http_date(modified)})


def _xml(text: str) -> Answer:
    declared = f'\ufeff<?xml version="1.0" encoding="utf-8"?>{text}'
    return Answer(200, {"Content-Type": "application/xml"}, declared.encode())
