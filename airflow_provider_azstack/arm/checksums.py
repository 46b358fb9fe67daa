"""
Checksums of what is read from a disk and written to one: a sample, as far as the service takes any.

Owns which requests carry one; sends nothing. Invariant: once the service refused a checksum, no
request carries one.
"""

import base64
import hashlib
import itertools
import logging

log = logging.getLogger(__name__)

# One request in so many. All would cost more than the rest of a backup or a restore together; what
# is wrong systematically (a proxy, a driver) shows in a sample.
MD5_EVERY = 64
MD5_LIMIT_BYTES = 4 * 2**20  # of a range: the service sums up no more


class Checksums:
    """Which requests of one disk carry a checksum. Thread-safe."""

    def __init__(self) -> None:
        self._requests = itertools.count()
        self._are_taken = True

    def are_due(self, size_bytes: int) -> bool:
        """Tell whether the next request, of that many bytes, carries one."""
        if not self._are_taken or size_bytes > MD5_LIMIT_BYTES:
            return False
        return next(self._requests) % MD5_EVERY == 0

    def refused(self, refusal: Exception) -> None:
        """Ask for none any more."""
        # No page says that the access of managed disks knows checksums: we can do without.
        log.info("without checksums from now on: %s", refusal)
        self._are_taken = False


def content_md5(data: bytes | memoryview) -> str:
    """Return the checksum of ``data`` as headers carry it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
