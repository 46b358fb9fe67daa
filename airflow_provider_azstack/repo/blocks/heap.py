"""
The C library's heap, told to keep what is freed for what is asked for next.

Owns that one setting; knows nothing of blocks.
Invariant: what is kept is bounded, and where the C library is another one nothing changes.
"""

import ctypes
import functools

# From malloc.h. By default blocks of a megabyte go back to the system when they are freed, and each
# new one costs 256 page faults: a third of the CPU time of reading a disk in order.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 32 * 2**20  # at the top of each heap
# By default there are eight heaps for each core, each with what it kept: a restore by sixteen
# threads held 400 MiB.
_HEAPS = 2
_LARGE_BYTES = 8 * 2**20  # larger blocks still come from the system one by one, and go back


@functools.cache
def keep_freed_memory() -> None:
    """Set it for this process; the first call counts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_ARENA_MAX, _HEAPS)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
