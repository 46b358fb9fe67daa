"""
What a bucket's refusal means: obstore's errors become ours.

Owns the reading of statuses and codes; knows no requests and no credentials.
Invariant: nothing of the original text is passed on but an HTTP status and a code of letters.
"""

import re

from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    ObjectExists,
    ObjectHeld,
    ObjectNotFound,
    ShortRead,
    StoreError,
    StoreFull,
    Throttled,
    Unreachable,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r'<Code>([A-Za-z]{1,60})</Code>|"reason":\s*"([A-Za-z]{1,60})"')
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_FULL = re.compile(r"Quota|StorageFull|InsufficientStorage|CapacityExceeded")
# Two requests crossed, or the service is busy with the container: a later try is told the truth.
_CROSSED = {"ConditionalRequestConflict", "OperationAborted", "ContainerBeingDeleted"}

# S3 says AccessDenied of a locked version, and of missing rights as well: only its text differs.
_HELD = {"retentionpolicynotmet", "objectlocked"}
_HELD_TEXT = "object protected by object lock"

_DENIED = (AccessDenied, "; check the credentials and their rights")
_BUSY = (Throttled, "; the store asks for patience")
_STATUSES: dict[int, tuple[type[AzStackError], str]] = {
    401: _DENIED,
    403: _DENIED,
    404: (ObjectNotFound, ""),
    408: (Unreachable, ""),
    412: (ObjectExists, ": it already exists"),
    416: (ShortRead, ": it ends before that"),
    429: _BUSY,
    503: _BUSY,
}

# What the library says without an HTTP status: a sign in its text, the error, what to tell.
_SIGNS: tuple[tuple[str, type[AzStackError], str], ...] = (
    (
        "InvalidCertificate",
        ConfigurationError,
        "its certificate is not trusted; give the CA as ca_bundle",
    ),
    ("169.254.169.254", AccessDenied, "no credentials were given and this machine has none"),
    (
        "metadata.google.internal",
        AccessDenied,
        "no credentials were given and this machine has none",
    ),
    ("incorrectly configured region", ConfigurationError, "the bucket is in another region"),
    ("invalid path", StoreError, "it holds a name that is not ours; remove that object"),
    ("dns error", Unreachable, "the host name is not known"),
    ("ConnectionRefused", Unreachable, "the connection was refused"),
    ("TimedOut", Unreachable, "no answer in time"),
)


def explain(error: Exception, verb: str, what: str, needed_bytes: int = 0) -> AzStackError:
    """
    Return our error for one of obstore's.

    :param verb: what was tried: ``create``, ``read``, ``look at``, ``list`` or ``delete``.
    :param what: the object and its store.
    """
    text = str(error)
    found = _STATUS.search(text)
    if not found:
        return _without_status(error, text, f"cannot {verb} {what}")
    status = int(found[1])
    match = _CODE.search(text)
    code = (match[1] or match[2]) if match else ""
    message = f"cannot {verb} {what}: HTTP {status}" + (f" {code}" if code else "")
    if code in _NO_BUCKET:
        return ConfigurationError(f"{message}; create the bucket or correct the URL")
    if status == 507 or _FULL.search(code):
        return StoreFull(f"{message}: {needed_bytes} bytes needed; make room or raise the quota")
    if verb == "delete" and status == 403 and (code.lower() in _HELD or _HELD_TEXT in text):
        return ObjectHeld(f"{message}; a retention policy or a lock holds it")
    if status == 409:
        return _conflict(verb, code, message)
    return _by_status(status, message)


def _by_status(status: int, message: str) -> AzStackError:
    kind, advice = _STATUSES.get(status, (Unreachable if status >= 500 else StoreError, ""))
    return kind(message + advice)


def _conflict(verb: str, code: str, message: str) -> AzStackError:
    if verb == "delete":
        return ObjectHeld(f"{message}; a retention policy or a lease holds it")
    if code in _CROSSED:
        return Unreachable(message)
    if verb == "create":
        return ObjectExists(f"{message}: it already exists")
    return StoreError(message)


def _without_status(error: Exception, text: str, message: str) -> AzStackError:
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(message)
    for sign, kind, meaning in _SIGNS:
        if sign in text:
            return kind(f"{message}: {meaning}")
    return Unreachable(f"{message}: the connection failed")
