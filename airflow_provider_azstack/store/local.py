"""
A store in a directory of a POSIX file system.

Owns files and when they are durable; knows nothing of what the bytes mean.
Invariant: a name shows all of its bytes or is not there, and ``put`` returns only when bytes and
name would survive a power cut. The write order, which the power-cut test walks:

- **L1** every folder on the way exists, and the folder that holds it was synced since.
- **L2** a temporary file in the same folder, locked, written, synced.
- **L3** a hard link to the final name, which fails when the name is taken.
- **L4** the temporary name removed, the folder synced.

The lock of a temporary file dies with its process, so what a killed one left behind is told from a
living one's work without a clock; the first ``put`` into a folder removes it.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from airflow_provider_azstack.errors import (
    ConfigurationError,
    ObjectNotFound,
    ShortRead,
    StoreError,
)
from airflow_provider_azstack.store.base import (
    MOST_BYTES,
    Buffer,
    ObjectInfo,
    Store,
    as_views,
    check_size,
    is_valid_name,
    validate_name,
    validate_prefix,
)
from airflow_provider_azstack.store.folders import TEMPORARY, Folders, Opened, identity
from airflow_provider_azstack.store.local_errors import (
    NO_HARD_LINKS,
    PUT_AGAIN,
    READ_AGAIN,
    explain,
)

T = TypeVar("T")

# These are other machines, and show one machine's changes to another one late, unless they are
# mounted not to.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "afs", "fuse.sshfs", "fuse.s3fs"})

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BUFFERS_PER_WRITE = os.sysconf("SC_IOV_MAX")


class LocalStore(Store):
    """
    Objects as files below one directory.

    :param directory: absolute path of a directory that exists.
    :param system: the operating system's calls; tests record them and let them fail.
    :raises ConfigurationError: there is no such directory.
    """

    def __init__(self, directory: str | Path, *, system: Any = os) -> None:
        self._root = Path(directory)
        self._system = system
        self._folders = Folders(self._root, system)

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @cached_property
    def is_near(self) -> bool:
        return self.file_system() not in NETWORK_FILE_SYSTEMS

    def file_system(self, mounts: Path = Path("/proc/self/mountinfo")) -> str:
        """Return the file system's type as the kernel calls it, ``""`` when it does not tell."""
        device = "{}:{}".format(*self._folders.device)
        try:
            lines = mounts.read_text().splitlines()
        except OSError:  # not Linux
            return ""
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
        found = [line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == device]
        return found[-1] if found else ""

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        *folders, leaf = validate_name(name).split("/")
        views = as_views(data)
        needed = sum(view.nbytes for view in views)
        self._attempt(
            name, lambda: self._put(folders, leaf, views), again=PUT_AGAIN, needed_bytes=needed
        )

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        def read() -> bytes:
            with self._file(name) as file:
                size = self._system.fstat(file).st_size
                check_size(size, most_bytes, f"{name} in {self.url}")
                return self._read(file, name, 0, size)

        return self._attempt(name, read)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.get_ranges(name, [(offset, length)])[0]

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        def read() -> Sequence[bytes]:
            with self._file(name) as file:
                size = self._system.fstat(file).st_size
                return [self._stretch(file, name, size, *one) for one in ranges]

        return self._attempt(name, read)

    def info(self, name: str) -> ObjectInfo:
        *folders, leaf = validate_name(name).split("/")

        def look() -> ObjectInfo:
            with self._folders.open(folders) as folder:
                return ObjectInfo(name, self._size(folder, leaf, name))

        return self._attempt(name, look)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._walk(validate_prefix(prefix))

    def delete(self, name: str) -> None:
        *folders, leaf = validate_name(name).split("/")

        def remove() -> None:
            with self._folders.open(folders) as folder:
                self._size(folder, leaf, name)
                self._system.unlink(leaf, dir_fd=folder)
                self._system.fsync(folder)

        self._attempt(name, remove)

    def _put(self, folders: Sequence[str], leaf: str, views: Sequence[memoryview]) -> None:
        with self._folders.make(folders) as folder:  # L1
            temporary = f"{TEMPORARY}{uuid4().hex}"
            file = self._system.open(temporary, _CREATE, 0o660, dir_fd=folder)
            try:
                flock(file, LOCK_EX | LOCK_NB)
                self._write(file, views)
                self._system.fsync(file)  # L2
                self._link(temporary, leaf, folder)  # L3
            finally:
                self._system.close(file)
                with suppress(FileNotFoundError):
                    self._system.unlink(temporary, dir_fd=folder)
            self._sync_or_withdraw(leaf, folder)  # L4

    def _link(self, temporary: str, leaf: str, folder: int) -> None:
        try:
            self._system.link(
                temporary, leaf, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
            )
        except FileExistsError:
            # A network file system may ask twice when the first answer is lost: then it is ours.
            if not self._is_same(temporary, leaf, folder):
                raise
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                raise ConfigurationError(
                    f"the file system of {self.url} makes no hard links, so it cannot create an "
                    "object without risking to replace one: use another file system"
                ) from error
            raise

    def _is_same(self, one: str, other: str, folder: int) -> bool:
        first, second = (
            self._system.stat(name, dir_fd=folder, follow_symlinks=False) for name in (one, other)
        )
        return identity(first) == identity(second)

    def _sync_or_withdraw(self, leaf: str, folder: int) -> None:
        # A sync that failed once may succeed the second time without having written anything
        # (the kernel marks the pages clean), so a second try starts over with a new file.
        try:
            self._system.fsync(folder)
        except OSError:
            with suppress(OSError):
                self._system.unlink(leaf, dir_fd=folder)
            raise

    def _write(self, file: int, views: Sequence[memoryview]) -> None:
        pending = list(views)
        first = 0
        while first < len(pending):
            written = self._system.writev(file, pending[first : first + _BUFFERS_PER_WRITE])
            while written and written >= pending[first].nbytes:
                written -= pending[first].nbytes
                first += 1
            if written:
                pending[first] = pending[first][written:]

    def _stretch(self, file: int, name: str, size: int, offset: int, length: int) -> bytes:
        # Checked before anything of that length is allocated.
        if not 0 <= offset <= offset + length <= size:
            raise ShortRead(
                f"{name} in {self.url} has {size} bytes, asked for {length} from offset {offset}"
            )
        return self._read(file, name, offset, length)

    def _read(self, file: int, name: str, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = self._system.pread(file, length, offset)
            if not piece:
                raise ShortRead(f"{name} in {self.url} ends at {offset}, {length} bytes early")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)  # a single piece is returned as it is, not copied

    def _file(self, name: str) -> Opened:
        *folders, leaf = validate_name(name).split("/")
        with self._folders.open(folders) as folder:
            self._size(folder, leaf, name)  # opening a device may already do something
            return Opened(self._system, self._system.open(leaf, _READ, dir_fd=folder))

    def _size(self, folder: int, leaf: str, name: str) -> int:
        status = self._system.stat(leaf, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(
                f"{name} in {self.url} is not a regular file: links, pipes and devices are not "
                "followed; remove it"
            )
        return int(status.st_size)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        try:
            folders, infos = self._attempt(prefix or "/", lambda: self._scan(prefix))
        except ObjectNotFound:
            return
        yield from infos
        for folder in folders:
            yield from self._walk(folder)

    def _scan(self, prefix: str) -> tuple[Sequence[str], Sequence[ObjectInfo]]:
        folders, infos = [], []
        with (
            self._folders.open(prefix.split("/")[:-1]) as folder,
            self._system.scandir(folder) as entries,
        ):
            for entry in entries:
                name = prefix + entry.name
                if not is_valid_name(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        size = entry.stat(follow_symlinks=False).st_size
                        infos.append(ObjectInfo(name, size))
        return folders, infos

    def _attempt(
        self,
        name: str,
        action: Callable[[], T],
        *,
        again: set[int] = READ_AGAIN,
        needed_bytes: int = 0,
    ) -> T:
        """Run ``action``, a second time when it is worth it, and raise only our own errors."""
        try:
            try:
                return action()
            except OSError as error:
                if error.errno not in again:
                    raise
                return action()
        except OSError as error:
            raise explain(error, f"{name} in {self.url}", needed_bytes, self._free) from error

    def _free(self) -> str:
        try:
            status = self._system.statvfs(self._root)
        except OSError:
            return "an unknown number"
        return str(status.f_bavail * status.f_frsize)
