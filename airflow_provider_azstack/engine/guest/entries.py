"""
Kind an entry of a guest's file system says of itself, in one language for all of them.

Owns where ext, XFS, NTFS and FAT differ in that; ``holds`` is always the file system, as
``signatures`` names it. Knows nothing of paths and content.
Invariant: what is no directory, file or link in every sense is "other", with a remark: its bytes
are never taken for its content.
"""

import stat
import struct
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["directory", "file", "symlink", "other"]

_FILETIME_1970 = 116_444_736_000_000_000  # in units of 100 ns since 1601
_NTFS_ROOT, _NTFS_FIRST_FILE = 5, 24
_READ_ONLY, _LABEL, _DIRECTORY, _LONG_NAME = 0x01, 0x08, 0x10, 0x0F
_REPARSE_POINT, _ENCRYPTED = 0x400, 0x4000


def identity(holds: str, entry: Any) -> int:
    """Return what is the same for all names of one file."""
    if holds == "ntfs":
        return int(entry.file_reference)
    return int(entry.identifier if holds == "fat" else entry.inode_number)


def kind_of(holds: str, entry: Any, *, is_root: bool) -> Kind:
    """Return whether an entry is a directory, a file, a link, or nothing that we read."""
    if is_root:
        return "directory"
    if holds in {"ext", "xfs"}:
        return _kind_of_mode(int(entry.file_mode))
    if holds == "fat":
        return "directory" if int(entry.file_attribute_flags) & _DIRECTORY else "file"
    if int(entry.file_attribute_flags) & (_REPARSE_POINT | _ENCRYPTED):
        return "other"  # its bytes are not its content
    return "directory" if entry.has_directory_entries_index() else "file"


def _kind_of_mode(mode: int) -> Kind:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "symlink"
    return "file" if stat.S_ISREG(mode) else "other"


def remark(holds: str, entry: Any) -> str:
    """Say why an entry is nothing that we read."""
    if holds != "ntfs":
        return "is no file, directory or link"
    if int(entry.file_attribute_flags) & _ENCRYPTED:
        return "is encrypted by Windows"
    return "is a link, deduplicated, or compressed by Windows in a way that is not read here"


def mode(holds: str, entry: Any, kind: Kind) -> int:
    """Return the permissions of an entry, or what comes closest to them."""
    if holds in {"ext", "xfs"}:
        return stat.S_IMODE(int(entry.file_mode))
    if kind == "directory":
        return 0o755
    return 0o444 if int(entry.file_attribute_flags) & _READ_ONLY else 0o644


def owner(holds: str, entry: Any) -> tuple[int, int] | None:
    """Return user and group, where the file system knows numbers."""
    if holds not in {"ext", "xfs"}:
        return None
    return int(entry.owner_identifier), int(entry.group_identifier)


def is_internal(holds: str, entry: Any, name: str) -> bool:
    """Tell whether an entry of a directory is none of its user's."""
    if name in {".", ".."}:
        return True
    if holds == "ntfs":
        number = int(entry.file_reference) & (2**48 - 1)
        return number < _NTFS_FIRST_FILE and number != _NTFS_ROOT
    return holds == "fat" and bool(int(entry.file_attribute_flags) & _LABEL)


def times_ns(holds: str, entry: Any, source: Any) -> tuple[int, int] | None:
    """
    Return when an entry was read and changed last, in nanoseconds since 1970.

    :param source: the partition as a file.
    """
    if holds == "fat":
        return _fat_times(int(entry.identifier), source)
    read = int(entry.get_access_time_as_integer() or 0)
    changed = int(entry.get_modification_time_as_integer() or 0)
    if holds == "ntfs":
        read, changed = (100 * (time - _FILETIME_1970) for time in (read, changed))
    return (read, changed) if changed > 0 else None


def _fat_times(position: int, source: Any) -> tuple[int, int] | None:
    # libfsfat (20260826) is off by a month. Its identifier is where the directory entry is.
    for _ in range(21):  # parts of a long name come first, at most 20
        source.seek(position)
        raw = source.read(32)
        if len(raw) == 32 and raw[11] != _LONG_NAME:
            _, day, time, date = struct.unpack_from("<HH2xHH", raw, 16)
            changed = _dos_time(date, time)
            return changed and (_dos_time(day, 0) or changed, changed)
        position += 32
    return None


def _dos_time(date: int, time: int) -> Any:
    try:
        moment = datetime(
            1980 + (date >> 9), date >> 5 & 15, date & 31,
            time >> 11, time >> 5 & 63, min(time % 32 * 2, 59), tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    return int(moment.timestamp()) * 10**9
