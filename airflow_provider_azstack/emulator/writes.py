"""
Changing page blobs and managed disks: their pages, and the number that writers may insist on.

Owns what is checked before a byte changes; knows nothing of how blobs come and go.
Invariant: a request of which anything does not hold changes nothing.
"""

from airflow_provider_azstack.emulator import sequence, signatures
from airflow_provider_azstack.emulator.blob_calls import (
    blob_of,
    check_disk_headers,
    check_etag,
    check_lease,
    md5_of,
    range_of,
    touched,
    written,
)
from airflow_provider_azstack.emulator.http import Answer, Call, Problem
from airflow_provider_azstack.emulator.layers import PAGE, Volume
from airflow_provider_azstack.emulator.state import World

MAX_WRITE = 4 << 20


def put_page(world: World, call: Call) -> Answer:
    """``PUT ?comp=page``: write or clear whole 4 KiB pages of a blob."""
    signatures.check_account(world, call, "w")
    blob = blob_of(world, call)
    check_lease(blob, call)
    with blob.volume.lock:  # nobody changes the number in between
        if world.behaviour.sequence_numbers:
            sequence.check(call, blob.sequence)
        _write(call, blob.volume, blob.etag)
    return touched(world, blob)


def put_managed_page(world: World, call: Call) -> Answer:
    """``PUT ?comp=page`` of a managed disk through a write grant."""
    grant = signatures.grant_of(world, call)
    if grant.access != "Write" or grant.resource.volume is None:
        raise Problem(403, "AuthorizationPermissionMismatch", "The grant permits reading only.")
    check_disk_headers(world, call)
    settings = grant.resource.settings
    _write(call, grant.resource.volume, settings["etag"])
    settings["etag"] = world.etag()
    return written(settings["etag"], world.clock())


def set_properties(world: World, call: Call) -> Answer:
    """``PUT ?comp=properties``: give a page blob another sequence number."""
    signatures.check_account(world, call, "w")
    blob = blob_of(world, call)
    check_lease(blob, call)
    with blob.volume.lock:
        check_etag(call, blob.etag)
        blob.sequence = sequence.changed(call, blob.sequence)
        answer = touched(world, blob)
    answer.status = 200
    answer.headers[sequence.HEADER] = str(blob.sequence)
    return answer


def _write(call: Call, volume: Volume, etag: str) -> None:
    check_etag(call, etag)
    start, end = range_of(call, 1 << 62) or (0, 0)
    aligned = start % PAGE == 0 and (end % PAGE == 0 or end == volume.size_bytes)
    if not start < end <= volume.size_bytes or not aligned:
        raise Problem(
            416, "InvalidPageRange", "The page range specified is invalid: pages have 4 KiB."
        )
    mode = call.header("x-ms-page-write").lower()
    if mode == "clear":
        volume.clear(start, end - start)
    elif mode == "update" and len(call.body) == end - start <= MAX_WRITE:
        _check_md5(call)
        volume.write(start, call.body)
    else:
        raise Problem(400, "InvalidHeaderValue", "HeaderName: x-ms-page-write, or a wrong length")


def _check_md5(call: Call) -> None:
    sent = call.header("Content-MD5")
    if sent and sent != md5_of(call.body):
        raise Problem(400, "Md5Mismatch", "The MD5 value specified did not match with the body.")
