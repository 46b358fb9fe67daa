"""
What is in a partition, by its first bytes.

Owns the signatures, and the features of file systems that may be overlooked; opens none of them.
Invariant: with a feature that the readers were not seen to know, nothing is read: it would be read
wrongly without a word.
"""

from typing import NamedTuple

from airflow_provider_azstack.engine.guest.partitions import Partition, Read

# Offset and bytes that tell what is in a partition; some kinds are only named, never read.
_SIGNATURES = (
    (1024 + 56, b"\x53\xef", "ext"),
    (0, b"XFSB", "xfs"),
    (3, b"NTFS    ", "ntfs"),
    (54, b"FAT1", "fat"),
    (82, b"FAT32", "fat"),
    (3, b"EXFAT   ", "exFAT"),
    (3, b"-FVE-FS-", "BitLocker"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (512, b"LABELONE", "LVM"),
    (4086, b"SWAPSPACE2", "swap"),
    (65536 + 64, b"_BHRfS_M", "btrfs"),
)
HEAD_BYTES = 65536 + 72  # all that is looked at
# Features that change what is stored where, and that the readers were seen to know. With others
# (inline data of ext4 is one) they return wrong bytes without a word.
_EXT_NEEDS_RECOVERY = 0x4
_EXT_KNOWN = 0x2 | _EXT_NEEDS_RECOVERY | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000
_XFS_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x20


class Features(NamedTuple):
    """What a superblock says that nobody may overlook."""

    needs_recovery: bool  # what was written last is in the journal only
    unknown: int  # features that the readers were not seen to know, as its bits


def what_is_in(read: Read, partition: Partition) -> str:
    """Return what a partition holds: a kind that ``Volume`` opens, another word, or nothing."""
    head = _head(read, partition)
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    return ""


def features_of(kind: str, read: Read, partition: Partition) -> Features:
    """Return the features of a file system, by its superblock's own account."""
    head = _head(read, partition)
    if kind == "ext":
        has = int.from_bytes(head[1024 + 96 : 1024 + 100], "little")
        return Features(bool(has & _EXT_NEEDS_RECOVERY), has & ~_EXT_KNOWN)
    has = 0
    if kind == "xfs" and head[101] & 15 == 5:  # versions before have none that change anything
        has = int.from_bytes(head[216:220], "big")
    return Features(needs_recovery=False, unknown=has & ~_XFS_KNOWN)


def _head(read: Read, partition: Partition) -> bytes:
    return read(partition.offset, min(HEAD_BYTES, partition.length))
