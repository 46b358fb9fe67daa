"""
Files of a backup, put into a directory.

Owns what is made there and how; knows no file system's format.
Invariant: nothing outside the directory is touched, and nothing in it that was there before. Names
are single names, every step goes through an open directory and follows no link, and a link that is
made is never walked through. A file is whole or not there, whatever ends the extraction; what stops
it leaves no empty folder that was not asked for.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from airflow_provider_azstack.engine.export.new_file import FULL, rename_new
from airflow_provider_azstack.engine.guest.file_systems import Node
from airflow_provider_azstack.errors import AzStackError, Refused, StoreError, StoreFull

_CHUNK = 2**20
_ZEROS = bytes(_CHUNK)
_MAX_DEPTH = 200  # each level keeps a directory open
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A file may be larger than its partition when blocks are shared, but not by any factor.
_SHARED = 64


class Problem(NamedTuple):
    """What was not extracted, and why."""

    path: str
    reason: str


class Extracted(NamedTuple):
    """What was extracted."""

    files: int
    directories: int
    links: int
    data_bytes: int
    problems: tuple[Problem, ...]


class Extraction:
    """Extracts files and whole directories into one directory."""

    def __init__(
        self,
        target: Path,
        *,
        partition_bytes: int,
        keep_owners: bool,
        chance: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        """
        :param partition_bytes: no file can have much more data than that.
        :param keep_owners: needs root.
        """
        self._target = target
        self._partition_bytes = partition_bytes
        self._keep_owners = keep_owners
        # A file's name until it is whole: that of no file of a guest, and of no other extraction.
        self._part = f".azstack-part-{chance()}"
        self._made_target = False
        self._files = self._directories = self._links = self._data_bytes = 0
        self._problems: list[Problem] = []

    def extract(self, node: Node, advance: Callable[[int], object] = lambda _: None) -> None:
        """
        Put a file or a directory under its name into the target; of the root, what is in it.

        :param advance: told again and again how many bytes were written, for other nodes as well.
        :raises Refused: something of that name is there.
        :raises StoreFull: there is no room.
        """
        self._advance = advance
        folder = self._open_target(node.name)
        try:
            if node.name:
                self._place(node, folder, frozenset())
            else:
                self._fill(node, folder, frozenset())
        except BaseException:
            if self._made_target:
                with suppress(OSError):  # it is not empty
                    self._target.rmdir()
            raise
        finally:
            os.close(folder)

    def result(self) -> Extracted:
        """Return what was extracted so far."""
        return Extracted(
            self._files, self._directories, self._links, self._data_bytes, tuple(self._problems)
        )

    def _open_target(self, name: str) -> int:
        try:
            with suppress(FileExistsError):
                # For us only: what comes may have been in a directory that let nobody in.
                self._target.mkdir(0o700)
                self._made_target = True
            if name and os.path.lexists(self._target / name):
                raise Refused(f"{self._target / name} exists, and nothing is replaced")
            return os.open(self._target, _FOLDER & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            raise StoreError(f"{self._target.parent} is not there: make it first") from None
        except OSError as error:
            raise StoreError(f"{self._target}: {error.strerror}") from None

    def _place(self, node: Node, folder: int, above: frozenset[int]) -> None:
        with self._noted(node.path):
            _check_name(node.name)
            if node.kind == "directory":
                self._make_directory(node, folder, above)
            elif node.kind == "file":
                self._make_file(node, folder)
            elif node.kind == "symlink":
                self._make_link(node, folder)
            else:
                self._problems.append(Problem(node.path, node.remark))

    def _fill(self, node: Node, folder: int, above: frozenset[int]) -> None:
        if node.identity in above or len(above) >= _MAX_DEPTH:
            self._problems.append(Problem(node.path, "is nested too deep, or in itself"))
            return
        with self._noted(node.path):
            for child in node.children():
                self._place(child, folder, above | {node.identity})

    def _make_directory(self, node: Node, folder: int, above: frozenset[int]) -> None:
        os.mkdir(node.name, 0o700, dir_fd=folder)
        try:
            with _opened(node.name, _FOLDER, folder) as inside:
                self._fill(node, inside, above)
                self._finish(node, inside)
        except BaseException:
            with suppress(OSError):  # it is not empty
                os.rmdir(node.name, dir_fd=folder)
            raise
        self._directories += 1

    def _make_file(self, node: Node, folder: int) -> None:
        with _opened(self._part, _NEW, folder) as file:
            try:
                copied = self._copy(node, file)
                self._finish(node, file)
                rename_new(self._part, node.name, folder)
            except BaseException:
                os.unlink(self._part, dir_fd=folder)
                raise
        self._files += 1
        self._data_bytes += copied

    def _copy(self, node: Node, file: int) -> int:
        """Write what a file holds, holes as holes; return how much that was."""
        copied = 0
        stretches = node.data()
        if sum(length for _, length in stretches) > _SHARED * self._partition_bytes:
            raise StoreError(f"{node.path} claims more data than its partition can hold")
        os.ftruncate(file, node.size_bytes)
        for offset, length in stretches:
            for start in range(offset, offset + length, _CHUNK):
                data = node.read(start, min(_CHUNK, offset + length - start))
                if data != _ZEROS[: len(data)]:
                    _write_at(file, data, start)
                    copied += len(data)
                    self._advance(self._data_bytes + copied)
        return copied

    def _make_link(self, node: Node, folder: int) -> None:
        os.symlink(node.link_target, node.name, dir_fd=folder)
        if self._keep_owners and node.owner:
            os.chown(node.name, *node.owner, dir_fd=folder, follow_symlinks=False)
        times = node.times_ns()
        if times:
            os.utime(node.name, ns=times, dir_fd=folder, follow_symlinks=False)
        self._links += 1

    def _finish(self, node: Node, file: int) -> None:
        """Give it its owner, mode and times; without the owner no set-user-id bit either."""
        mode = node.mode & 0o777
        if self._keep_owners and node.owner:
            os.fchown(file, *node.owner)
            mode = node.mode
        os.fchmod(file, mode)
        times = node.times_ns()
        if times:
            os.utime(file, ns=times)

    @contextmanager
    def _noted(self, path: str) -> Iterator[None]:
        """One file's trouble is not the next one's; a full disk is everybody's."""
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise StoreFull(f"{self._target}: no room for {path}") from None
            reason = getattr(error, "strerror", None) or str(error)
            self._problems.append(Problem(path, reason))
        except StoreFull:
            raise
        except AzStackError as error:
            self._problems.append(Problem(path, str(error)))


def needed_bytes(node: Node, above: frozenset[int] = frozenset()) -> int:
    """Return how much data a file has, or all files in a directory, as far as that can be read."""
    try:
        if node.kind == "file":
            return sum(length for _, length in node.data())
        if node.kind != "directory" or node.identity in above or len(above) >= _MAX_DEPTH:
            return 0
        return sum(needed_bytes(child, above | {node.identity}) for child in node.children())
    except (AzStackError, ValueError):
        return 0


@contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    file = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)


def _check_name(name: str) -> None:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ValueError("is no name that a file can have here")
    with suppress(UnicodeEncodeError):
        name.encode()
        return
    raise ValueError("has a name that is no Unicode")


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
