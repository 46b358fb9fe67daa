"""
What a file system's refusal means: an operating system's errors become ours.

Owns the reading of error numbers; makes no calls.
Invariant: what is worth another try is said here, for reading and for writing, and nowhere else.
"""

import errno
from collections.abc import Callable

from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreFull,
)

NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
# A disk error is worth one more try. So is a temporary file or folder that vanished or was locked
# under a put: somebody swept it in the moment between its creation and its lock.
# A folder of a network file system may be forgotten by its server between two calls.
READ_AGAIN = {errno.EIO, errno.ESTALE}
PUT_AGAIN = {errno.EIO, errno.ESTALE, errno.ENOENT, errno.EAGAIN}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(error: OSError, what: str, needed_bytes: int, free: Callable[[], str]) -> AzStackError:
    """
    Return our error for one of the operating system's.

    :param what: the object and its store.
    :param free: says how many bytes there is room for; asked when there was no room.
    """
    if error.errno == errno.EEXIST:
        return ObjectExists(f"{what} already exists")
    if error.errno == errno.ENOENT:
        return ObjectNotFound(f"{what} does not exist")
    if error.errno in _FULL:
        return StoreFull(
            f"no room for {what}: {needed_bytes} bytes needed, {free()} free "
            f"({error.strerror}); make room or raise the quota"
        )
    if error.errno in _DENIED:
        return AccessDenied(f"{what}: {error.strerror}; check owner and mode of the directory")
    return StoreError(f"{what}: {error.strerror} (errno {error.errno})")
