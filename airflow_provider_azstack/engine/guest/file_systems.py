"""
The files in a partition, read without mounting it.

Owns what file system it is and one view of all of them; the formats are libyal's, an extra. Knows
nothing of where files are put.
Invariant: a guest's file system may be broken or made to break us. Its errors are ours, named with
the path; what the repository could not read is told as that, not as a broken file system.
"""

import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Literal, NamedTuple

from airflow_provider_azstack.engine.guest.partitions import Partition, Read
from airflow_provider_azstack.errors import AzStackError, ConfigurationError

Kind = Literal["directory", "file", "symlink", "other"]

_MODULES = {"ext": "pyfsext", "xfs": "pyfsxfs", "ntfs": "pyfsntfs", "fat": "pyfsfat"}
READABLE = frozenset(_MODULES)
# libfsxfs (20260901) leaves allocation groups in its offsets, which then are none; FAT tells none.
_TELL_EXTENTS = frozenset({"ext", "ntfs"})
# Offset and bytes that tell what is in a partition; those without a module are only named.
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
HEAD_BYTES = 65536 + 72
_BROKEN = (OSError, ValueError, RuntimeError, OverflowError, MemoryError, TypeError)
_FILETIME_1970 = 116_444_736_000_000_000  # in units of 100 ns since 1601
_NTFS_ROOT, _NTFS_FIRST_FILE = 5, 24
_READ_ONLY, _LABEL, _DIRECTORY, _LONG_NAME = 0x01, 0x08, 0x10, 0x0F
_REPARSE_POINT, _ENCRYPTED = 0x400, 0x4000
# Features that change what is stored where, and that the readers were seen to know. With others
# (inline data of ext4 is one) they return wrong bytes without a word.
_EXT_NEEDS_RECOVERY = 0x4
_EXT_KNOWN = 0x2 | _EXT_NEEDS_RECOVERY | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000
_XFS_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x20


class Unreadable(AzStackError):
    """A guest's file system, or a file of it, cannot be read."""


class LibraryMissing(ConfigurationError):
    """The extra that reads files is not installed."""


class Data(NamedTuple):
    """A stretch of a file that is not a hole, or of a partition."""

    offset: int
    length: int


class _Source:
    """A partition as libyal wants it: a file that is read and seeked."""

    def __init__(self, read: Read, partition: Partition) -> None:
        self._read = read
        self._partition = partition
        self._position = 0
        self.error: BaseException | None = None

    def read(self, size: int | None = None) -> bytes:
        left = max(0, self._partition.length - self._position)
        size = left if size is None else min(size, left)
        try:
            data = self._read(self._partition.offset + self._position, size)
        except BaseException as error:
            self.error = error  # libyal makes an IOError of it, of an interrupt as well
            raise
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> None:
        start = (0, self._position, self._partition.length)[whence]
        self._position = max(0, start + offset)

    def tell(self) -> int:
        return self._position

    def get_offset(self) -> int:
        return self._position

    def get_size(self) -> int:
        return self._partition.length

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn libyal's errors into ours, or into that of the repository behind it."""
        try:
            yield
        except _BROKEN as error:
            cause, self.error = self.error, None
            if cause is not None:
                raise cause from None
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise Unreadable(f"{what} cannot be read: {reason}") from None


def what_is_in(read: Read, partition: Partition) -> str:
    """Return what a partition holds: a kind that ``Volume`` opens, another word, or nothing."""
    head = _head(read, partition)
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    return ""


def tells_extents(kind: str) -> bool:
    """Tell whether ``Node.stored`` knows where a file system of this kind keeps its files."""
    return kind in _TELL_EXTENTS


def _head(read: Read, partition: Partition) -> bytes:
    return read(partition.offset, min(HEAD_BYTES, partition.length))


def _features(kind: str, head: bytes) -> int:
    """Return the features that nobody may overlook, by the superblock's own account."""
    if kind == "ext":
        return int.from_bytes(head[1024 + 96 : 1024 + 100], "little")
    is_version_5 = kind == "xfs" and head[101] & 15 == 5
    return int.from_bytes(head[216:220], "big") if is_version_5 else 0


class Volume:
    """The file system of one partition."""

    def __init__(
        self,
        read: Read,
        partition: Partition,
        load: Callable[[str], Any] = import_module,
    ) -> None:
        """
        :raises ConfigurationError: it is not one of those that can be read, or the extra is not
            installed.
        :raises Unreadable: it is broken.
        """
        self.partition = partition
        self.kind = what_is_in(read, partition)
        if self.kind not in _MODULES:
            found = f"holds {self.kind}" if self.kind else "holds no file system that we know"
            raise ConfigurationError(
                f"partition {partition.number} {found}; ext, XFS, NTFS and FAT can be read, for "
                "others see docs/export.md"
            )
        features = _features(self.kind, _head(read, partition))
        self.needs_recovery = self.kind == "ext" and bool(features & _EXT_NEEDS_RECOVERY)
        if unknown := features & ~(_EXT_KNOWN if self.kind == "ext" else _XFS_KNOWN):
            raise ConfigurationError(
                f"partition {partition.number} holds {self.kind} with features {unknown:#x} that "
                "would be read wrongly (inline data, encryption, ...), see docs/export.md"
            )
        try:
            module = load(_MODULES[self.kind])
        except ImportError:
            raise LibraryMissing(
                "reading files needs the extra: pip install 'airflow-provider-azstack[files]'"
            ) from None
        self.source = _Source(read, partition)
        self._volume = module.volume()
        with self.source.explained(f"the {self.kind} file system"):
            self._volume.open_file_object(self.source)

    def root(self) -> "Node":
        """Return the topmost directory."""
        with self.source.explained("/"):
            return Node(self, self._volume.get_root_directory(), "/", "")

    def find(self, path: str) -> "Node":
        """
        Return what a path leads to; symbolic links are not followed.

        :raises ConfigurationError: nothing is there.
        """
        node = self.root()
        for name in filter(None, path.split("/")):
            below = node.children() if node.kind == "directory" else iter(())
            child = next((child for child in below if child.name == name), None)
            if child is None:
                raise ConfigurationError(f"{node.path} in the backup has no {name!r}")
            node = child
        return node


class Node:
    """One file, directory or link, as its file system tells it."""

    def __init__(self, volume: Volume, entry: Any, path: str, name: str) -> None:
        self.path = path
        self.name = name  # may be anything that a guest could write
        self._volume = volume
        self._entry = entry
        with self._explained():
            self.identity = _identity(volume.kind, entry)
            self.kind: Kind = _kind(volume.kind, entry, is_root=path == "/")
            self.remark = _remark(volume.kind, entry) if self.kind == "other" else ""
            self.size_bytes = int(entry.size or 0) if self.kind == "file" else 0
            self.mode = _mode(volume.kind, entry, self.kind)

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group, where the file system knows numbers."""
        if self._volume.kind not in {"ext", "xfs"}:
            return None
        with self._explained():
            return int(self._entry.owner_identifier), int(self._entry.group_identifier)

    @property
    def link_target(self) -> str:
        """What a symbolic link says."""
        with self._explained():
            return str(self._entry.symbolic_link_target or "")

    def times_ns(self) -> tuple[int, int] | None:
        """Return when it was read and changed last, in nanoseconds since 1970."""
        with self._explained():
            if self._volume.kind == "fat":
                return self._fat_times()
            read = int(self._entry.get_access_time_as_integer() or 0)
            changed = int(self._entry.get_modification_time_as_integer() or 0)
        if self._volume.kind == "ntfs":
            read, changed = (100 * (time - _FILETIME_1970) for time in (read, changed))
        return (read, changed) if changed > 0 else None

    def children(self) -> Iterator["Node"]:
        """
        Yield what a directory holds, in its own order; what NTFS keeps for itself is left out.

        :raises Unreadable: some of it could not be read; the rest was yielded before.
        """
        with self._explained():
            count = int(self._entry.number_of_sub_file_entries)
        broken: list[AzStackError] = []
        for number in range(count):
            try:
                child = self._child(number)
            except AzStackError as error:
                broken.append(error)
                continue
            if child is not None:
                yield child
        if broken:
            raise Unreadable(f"{len(broken)} entries of {self.path} are lost: {broken[0]}")

    def _child(self, number: int) -> "Node | None":
        with self._explained():
            entry = self._entry.get_sub_file_entry(number)
            name = str(entry.name)
            if self._is_internal(entry, name):
                return None
        return Node(self._volume, entry, f"{self.path.rstrip('/')}/{name}", name)

    def data(self) -> list[Data]:
        """Return where a file is not a hole, as far as its file system tells."""
        whole = [Data(0, self.size_bytes)] if self.size_bytes else []
        # Extents of NTFS are not a map of the content when it is compressed, and FAT has no holes.
        if self._volume.kind not in {"ext", "xfs"}:
            return whole
        try:
            found, end = self._extents()
        except OSError:
            return whole  # kept in the inode
        return found if end >= self.size_bytes else whole

    def stored(self) -> list[Data]:
        """Return where on the partition a file or directory lies, for ``tells_extents`` ones."""
        if self._volume.kind != "ntfs" and self.kind not in {"file", "directory"}:
            return []  # a link's text or a device's number stands where blocks would
        try:
            with self._explained():
                numbers = range(self._entry.get_number_of_extents())
                extents = [self._entry.get_extent(number) for number in numbers]
        except Unreadable:
            return []  # kept in the inode
        return [Data(offset, length) for offset, length, flags in extents if not flags & 1]

    def read(self, offset: int, length: int) -> bytes:
        """
        Return exactly that stretch of a file.

        :raises Unreadable: it cannot be read.
        """
        with self._explained():
            data = bytes(self._entry.read_buffer_at_offset(length, offset))
        if len(data) != length:
            raise Unreadable(f"{self.path} ends at {offset + len(data)}, not at {self.size_bytes}")
        return data

    def _extents(self) -> tuple[list[Data], int]:
        found, position = [], 0
        for number in range(self._entry.get_number_of_extents()):
            _, length, flags = self._entry.get_extent(number)
            stop = min(position + length, self.size_bytes)
            if not flags & 1 and stop > position:
                found.append(Data(position, stop - position))
            position += length
        return found, position

    def _is_internal(self, entry: Any, name: str) -> bool:
        if name in {".", ".."}:
            return True
        if self._volume.kind == "ntfs":
            number = int(entry.file_reference) & (2**48 - 1)
            return number < _NTFS_FIRST_FILE and number != _NTFS_ROOT
        return self._volume.kind == "fat" and bool(int(entry.file_attribute_flags) & _LABEL)

    def _fat_times(self) -> tuple[int, int] | None:
        # libfsfat (20260826) is off by a month. Its identifier is where the directory entry is.
        source, position = self._volume.source, int(self._entry.identifier)
        for _ in range(21):  # parts of a long name come first, at most 20
            source.seek(position)
            raw = source.read(32)
            if len(raw) == 32 and raw[11] != _LONG_NAME:
                _, day, time, date = struct.unpack_from("<HH2xHH", raw, 16)
                changed = _dos_time(date, time)
                return changed and (_dos_time(day, 0) or changed, changed)
            position += 32
        return None

    def _explained(self) -> Any:
        return self._volume.source.explained(self.path)


def _dos_time(date: int, time: int) -> Any:
    try:
        moment = datetime(
            1980 + (date >> 9), date >> 5 & 15, date & 31,
            time >> 11, time >> 5 & 63, min(time % 32 * 2, 59), tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    return int(moment.timestamp()) * 10**9


def _identity(kind: str, entry: Any) -> int:
    if kind == "ntfs":
        return int(entry.file_reference)
    return int(entry.identifier if kind == "fat" else entry.inode_number)


def _kind(kind: str, entry: Any, *, is_root: bool) -> Kind:
    if is_root:
        return "directory"
    if kind in {"ext", "xfs"}:
        return _kind_of_mode(int(entry.file_mode))
    if kind == "fat":
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


def _remark(kind: str, entry: Any) -> str:
    if kind != "ntfs":
        return "is no file, directory or link"
    if int(entry.file_attribute_flags) & _ENCRYPTED:
        return "is encrypted by Windows"
    return "is a link, deduplicated, or compressed by Windows in a way that is not read here"


def _mode(kind: str, entry: Any, what: Kind) -> int:
    if kind in {"ext", "xfs"}:
        return stat.S_IMODE(int(entry.file_mode))
    if what == "directory":
        return 0o755
    return 0o444 if int(entry.file_attribute_flags) & _READ_ONLY else 0o644
