"""
Reading page blobs, their snapshots, and managed disks: bytes, page lists, differences.

Owns what an answer of bytes says of the disk; changes nothing.
Invariant: a range is served from one content, so a snapshot's answers never change.
"""

from airflow_provider_azstack.emulator import page_lists, sequence, signatures
from airflow_provider_azstack.emulator.blob_calls import (
    Found,
    blob_of,
    check_disk_headers,
    check_etag,
    find,
    md5_of,
    range_of,
)
from airflow_provider_azstack.emulator.disks import content_of
from airflow_provider_azstack.emulator.http import Answer, Call, Extract, Problem, http_date
from airflow_provider_azstack.emulator.layers import Content
from airflow_provider_azstack.emulator.state import World

MAX_MD5 = 4 << 20


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


def _granted(world: World, call: Call, access: set[str]) -> Found:
    grant = signatures.grant_of(world, call)
    check_disk_headers(world, call)
    if grant.access not in access:
        raise Problem(403, "AuthorizationPermissionMismatch", "The grant does not permit this.")
    settings = grant.resource.settings
    modified = settings.setdefault("modified", world.clock())
    return Found(content_of(grant.resource, freeze=False), settings["etag"], modified, {})


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
        headers["Content-MD5"] = md5_of(extract.read())
    return Answer(206, headers, extract)


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
    answer = page_lists.answer(page_lists.page_list(stretches))
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
