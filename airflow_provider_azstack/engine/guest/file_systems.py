"""
The files in a partition, read without mounting it.

Owns one view of all file systems; the formats are libyal's, an extra. Knows nothing of where files
are put.
Invariant: a guest's file system may be broken or made to break us. Its errors are ours, named with
the path; what the repository could not read is told as that, not as a broken file system.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from airflow_provider_azstack.engine.guest import entries
from airflow_provider_azstack.engine.guest.partitions import Partition, Read
from airflow_provider_azstack.engine.guest.signatures import features_of, what_is_in
from airflow_provider_azstack.errors import AzStackError, ConfigurationError

_MODULES = {"ext": "pyfsext", "xfs": "pyfsxfs", "ntfs": "pyfsntfs", "fat": "pyfsfat"}
READABLE = frozenset(_MODULES)
# libfsxfs (20260901) leaves allocation groups in its offsets, which then are none; FAT tells none.
_TELL_EXTENTS = frozenset({"ext", "ntfs"})
_BROKEN = (OSError, ValueError, RuntimeError, OverflowError, MemoryError, TypeError)


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


def tells_extents(kind: str) -> bool:
    """Tell whether ``Node.stored`` knows where a file system of this kind keeps its files."""
    return kind in _TELL_EXTENTS


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
        self.needs_recovery, unknown = features_of(self.kind, read, partition)
        if unknown:
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
            self.identity = entries.identity(volume.kind, entry)
            self.kind = entries.kind_of(volume.kind, entry, is_root=path == "/")
            self.remark = entries.remark(volume.kind, entry) if self.kind == "other" else ""
            self.size_bytes = int(entry.size or 0) if self.kind == "file" else 0
            self.mode = entries.mode(volume.kind, entry, self.kind)

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group, where the file system knows numbers."""
        with self._explained():
            return entries.owner(self._volume.kind, self._entry)

    @property
    def link_target(self) -> str:
        """What a symbolic link says."""
        with self._explained():
            return str(self._entry.symbolic_link_target or "")

    def times_ns(self) -> tuple[int, int] | None:
        """Return when it was read and changed last, in nanoseconds since 1970."""
        with self._explained():
            return entries.times_ns(self._volume.kind, self._entry, self._volume.source)

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
            if entries.is_internal(self._volume.kind, entry, name):
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

    def _explained(self) -> Any:
        return self._volume.source.explained(self.path)
