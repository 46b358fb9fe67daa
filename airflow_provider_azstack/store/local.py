"""
A store in a directory of a POSIX file system.

Owns files, folders and what makes them durable; knows nothing of what the bytes mean.
Invariant: a name shows all of its bytes or is not there, and ``put`` returns only when bytes and
name would survive a power cut. The write order, which the power-cut test walks:

- **L1** every folder on the way exists, and the folder that holds it was synced since.
- **L2** a temporary file in the same folder, locked, written, synced.
- **L3** a hard link to the final name, which fails when the name is taken.
- **L4** the temporary name removed, the folder synced.

The lock of a temporary file dies with its process, so what a killed one left behind is told from a
living one's work without a clock; the first ``put`` into a folder removes it.
"""

import errno
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
    AccessDenied,
    AzStackError,
    ConfigurationError,
    ObjectExists,
    ObjectNotFound,
    ShortRead,
    StoreError,
    StoreFull,
    Unreachable,
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

T = TypeVar("T")

# These are other machines, and show one machine's changes to another one late, unless they are
# mounted not to.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "afs", "fuse.sshfs", "fuse.s3fs"})

TEMPORARY = ".put-"  # starts with a dot: no valid name does, so no listing shows one
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BUFFERS_PER_WRITE = os.sysconf("SC_IOV_MAX")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
# A disk error is worth one more try. So is a temporary file or folder that vanished or was locked
# under a put: somebody swept it in the moment between its creation and its lock.
# A folder of a network file system may be forgotten by its server between two calls.
_READ_AGAIN = {errno.EIO, errno.ESTALE}
_PUT_AGAIN = {errno.EIO, errno.ESTALE, errno.ENOENT, errno.EAGAIN}


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
        self._synced: set[str] = set()
        self._swept: set[str] = set()
        if not self._root.is_absolute():
            raise ConfigurationError(f"store directory {directory} must be an absolute path")
        try:
            self._identity = _identity(self._root.stat())
        except OSError as error:
            raise ConfigurationError(
                f"store directory {directory} cannot be used ({error.strerror}): "
                "create it, or mount it, and check its owner"
            ) from error
        if not self._root.is_dir():
            raise ConfigurationError(f"store directory {directory} is not a directory")

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @cached_property
    def is_near(self) -> bool:
        return self.file_system() not in NETWORK_FILE_SYSTEMS

    def file_system(self, mounts: Path = Path("/proc/self/mountinfo")) -> str:
        """Return the file system's type as the kernel calls it, ``""`` when it does not tell."""
        device = f"{os.major(self._identity[0])}:{os.minor(self._identity[0])}"
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
            name, lambda: self._put(folders, leaf, views), again=_PUT_AGAIN, needed_bytes=needed
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
            with self._folder(folders) as folder:
                return ObjectInfo(name, self._size(folder, leaf, name))

        return self._attempt(name, look)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._walk(validate_prefix(prefix))

    def delete(self, name: str) -> None:
        *folders, leaf = validate_name(name).split("/")

        def remove() -> None:
            with self._folder(folders) as folder:
                self._size(folder, leaf, name)
                self._system.unlink(leaf, dir_fd=folder)
                self._system.fsync(folder)

        self._attempt(name, remove)

    def _put(self, folders: Sequence[str], leaf: str, views: Sequence[memoryview]) -> None:
        with self._folder(folders, make=True) as folder:
            temporary = f"{TEMPORARY}{uuid4().hex}"
            file = self._system.open(temporary, _CREATE, 0o660, dir_fd=folder)
            try:
                flock(file, LOCK_EX | LOCK_NB)
                self._write(file, views)
                self._system.fsync(file)
                self._link(temporary, leaf, folder)
            finally:
                self._system.close(file)
                with suppress(FileNotFoundError):
                    self._system.unlink(temporary, dir_fd=folder)
            self._sync_or_withdraw(leaf, folder)

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
            if error.errno in _NO_HARD_LINKS:
                raise ConfigurationError(
                    f"the file system of {self.url} makes no hard links, so it cannot create an "
                    "object without risking to replace one: use another file system"
                ) from error
            raise

    def _is_same(self, one: str, other: str, folder: int) -> bool:
        first, second = (
            self._system.stat(name, dir_fd=folder, follow_symlinks=False) for name in (one, other)
        )
        return _identity(first) == _identity(second)

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

    def _file(self, name: str) -> "_Opened":
        *folders, leaf = validate_name(name).split("/")
        with self._folder(folders) as folder:
            self._size(folder, leaf, name)  # opening a device may already do something
            return _Opened(self._system, self._system.open(leaf, _READ, dir_fd=folder))

    def _size(self, folder: int, leaf: str, name: str) -> int:
        status = self._system.stat(leaf, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(
                f"{name} in {self.url} is not a regular file: links, pipes and devices are not "
                "followed; remove it"
            )
        return int(status.st_size)

    def _folder(self, folders: Sequence[str], *, make: bool = False) -> "_Opened":
        """Open a folder step by step from the root, so that no step is a symbolic link."""
        folder = self._open_root()
        try:
            for depth, step in enumerate(folders, 1):
                if make:
                    self._make(step, folder, "/".join(folders[:depth]))
                inner = self._system.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                self._system.close(folder)
                folder = inner
            if make:
                self._sweep(folder, "/".join(folders))
        except BaseException:
            self._system.close(folder)
            raise
        return _Opened(self._system, folder)

    def _open_root(self) -> int:
        try:
            root: int = self._system.open(self._root, _FOLDER)
        except FileNotFoundError as error:
            raise Unreachable(f"store directory {self._root} is gone: is it mounted?") from error
        if _identity(self._system.fstat(root)) != self._identity:
            self._system.close(root)
            raise Unreachable(
                f"store directory {self._root} is not the one that was opened: "
                "it was unmounted or replaced"
            )
        return root

    def _make(self, step: str, parent: int, path: str) -> None:
        made = True
        try:
            self._system.mkdir(step, 0o770, dir_fd=parent)
        except FileExistsError:
            made = False
        # Also when another process made it: that one may not have synced it yet.
        if made or path not in self._synced:
            self._system.fsync(parent)
            self._synced.add(path)

    def _sweep(self, folder: int, path: str) -> None:
        """Remove temporary files whose writer is dead, once per folder."""
        if path in self._swept:
            return
        with self._system.scandir(folder) as entries:
            found = [e.name for e in entries if e.name.startswith(TEMPORARY)]
        for name in found:
            with suppress(OSError):  # its writer lives, or it is gone, or it is nothing of ours
                self._sweep_one(folder, name)
        self._swept.add(path)

    def _sweep_one(self, folder: int, name: str) -> None:
        file = self._system.open(name, _LOCK, dir_fd=folder)
        try:
            flock(file, LOCK_EX | LOCK_NB)
            self._system.unlink(name, dir_fd=folder)
        finally:
            self._system.close(file)

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
            self._folder(prefix.split("/")[:-1]) as folder,
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
        again: set[int] = _READ_AGAIN,
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
            raise self._explain(error, name, needed_bytes) from error

    def _explain(self, error: OSError, name: str, needed_bytes: int) -> AzStackError:
        where = f"{name} in {self.url}"
        if error.errno == errno.EEXIST:
            return ObjectExists(f"{where} already exists")
        if error.errno == errno.ENOENT:
            return ObjectNotFound(f"{where} does not exist")
        if error.errno in _FULL:
            return StoreFull(
                f"no room for {where}: {needed_bytes} bytes needed, {self._free()} free "
                f"({error.strerror}); make room or raise the quota"
            )
        if error.errno in _DENIED:
            return AccessDenied(f"{where}: {error.strerror}; check owner and mode of the directory")
        return StoreError(f"{where}: {error.strerror} (errno {error.errno})")

    def _free(self) -> str:
        try:
            status = self._system.statvfs(self._root)
        except OSError:
            return "an unknown number"
        return str(status.f_bavail * status.f_frsize)


class _Opened:
    """The number of an open file or folder, closed when it is left."""

    # Not a generator with `contextmanager`: two of those are a tenth of reading a small object.
    def __init__(self, system: Any, number: int) -> None:
        self._system = system
        self._number = number

    def __enter__(self) -> int:
        return self._number

    def __exit__(self, *_: object) -> None:
        self._system.close(self._number)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
