"""
What requests to the blob service have in common: which blob they mean, and on what conditions.

Owns finding it, the checks that any request may ask for, and the answer to a change; does nothing
of what is asked. Invariant: a request is refused here before anything changes.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from airflow_provider_azstack.emulator.http import Answer, Call, Problem, http_date
from airflow_provider_azstack.emulator.layers import Content
from airflow_provider_azstack.emulator.state import Blob, World

_CONDITIONS = (
    "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
    "x-ms-if-sequence-number-le", "x-ms-if-sequence-number-lt", "x-ms-if-sequence-number-eq",
)  # fmt: skip
_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{0,19})")


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


def key_of(call: Call) -> tuple[str, str, str]:
    """Return account, container and name."""
    return call.params["account"], call.params["container"], call.params["blob"]


def blob_of(world: World, call: Call) -> Blob:
    """Return the blob that a request names."""
    found = world.blobs.get(key_of(call))
    if found is None:
        raise blob_not_found()
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
        raise blob_not_found()
    return Found(
        found.content,
        found.etag,
        found.modified,
        found.metadata,
        sequence=found.sequence,
        created=blob.created,
    )


def blob_not_found() -> Problem:
    """Return the answer to a request for a blob or a snapshot that is not there."""
    return Problem(404, "BlobNotFound", "The specified blob does not exist.")


def metadata_of(call: Call) -> dict[str, str]:
    """Return the metadata that a request sends."""
    prefix = "x-ms-meta-"
    return {
        name.removeprefix(prefix): value
        for name, value in call.headers.items()
        if name.startswith(prefix)
    }


def range_of(call: Call, size: int) -> tuple[int, int] | None:
    """Return from where to where a request asks, or None when it asks for all."""
    text = call.header("x-ms-range") or call.header("Range")
    if not text:
        return None
    match = _RANGE.fullmatch(text)
    if not match:
        raise Problem(400, "InvalidHeaderValue", "HeaderName: x-ms-range")
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise Problem(
            416, "InvalidRange", "The range specified is invalid for the resource's size."
        )
    return start, end


def md5_of(data: bytes) -> str:
    """Return the checksum of some bytes as headers carry it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def check_etag(call: Call, etag: str) -> None:
    """Refuse a request that means another state of a blob."""
    if call.header("If-Match") not in {"", "*", etag}:
        raise Problem(
            412,
            "ConditionNotMet",
            "The condition specified using HTTP conditional header(s) is not met.",
        )


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


def touched(world: World, blob: Blob) -> Answer:
    """Give a changed blob a new ETag, and return the answer."""
    blob.etag, blob.modified = world.etag(), world.clock()
    return written(blob.etag, blob.modified)


def written(etag: str, modified: float) -> Answer:
    """Return the answer to what changed a blob."""
    return Answer(201, {"ETag": etag, "Last-Modified": http_date(modified)})
