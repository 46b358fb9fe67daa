"""
The folders below a store's directory, opened one after the other from the root.

Owns the way to a folder, that it is durable, and what killed writers left behind in it; knows no
objects. Invariant: no step of the way is a symbolic link, and the root is the directory that was
there at first: what was mounted over it, or in its place, is never taken for it.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from airflow_provider_azstack.errors import ConfigurationError, Unreachable

TEMPORARY = ".put-"  # starts with a dot: no valid name does, so no listing shows one
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Opened:
    """The number of an open file or folder, closed when it is left."""

    # Not a generator with `contextmanager`: two of those are a tenth of reading a small object.
    def __init__(self, system: Any, number: int) -> None:
        self._system = system
        self._number = number

    def __enter__(self) -> int:
        return self._number

    def __exit__(self, *_: object) -> None:
        self._system.close(self._number)


class Folders:
    """
    Opens folders below one directory.

    :param root: absolute path of a directory that exists.
    :param system: the operating system's calls.
    :raises ConfigurationError: there is no such directory.
    """

    def __init__(self, root: Path, system: Any) -> None:
        self._root = root
        self._system = system
        self._synced: set[str] = set()
        self._swept: set[str] = set()
        if not root.is_absolute():
            raise ConfigurationError(f"store directory {root} must be an absolute path")
        try:
            self._identity = identity(root.stat())
        except OSError as error:
            raise ConfigurationError(
                f"store directory {root} cannot be used ({error.strerror}): "
                "create it, or mount it, and check its owner"
            ) from error
        if not root.is_dir():
            raise ConfigurationError(f"store directory {root} is not a directory")

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of the device that the root is on."""
        return os.major(self._identity[0]), os.minor(self._identity[0])

    def open(self, steps: Sequence[str]) -> Opened:
        """
        Open the folder at the end of ``steps``.

        :raises FileNotFoundError: there is none.
        """
        return self._walk(steps, make=False)

    def make(self, steps: Sequence[str]) -> Opened:
        """Open the folder at the end of ``steps``, durable from now on, and free of leftovers."""
        return self._walk(steps, make=True)

    def _walk(self, steps: Sequence[str], *, make: bool) -> Opened:
        folder = self._open_root()
        try:
            for depth, step in enumerate(steps, 1):
                if make:
                    self._make(step, folder, "/".join(steps[:depth]))
                inner = self._system.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                self._system.close(folder)
                folder = inner
            if make:
                self._sweep(folder, "/".join(steps))
        except BaseException:
            self._system.close(folder)
            raise
        return Opened(self._system, folder)

    def _open_root(self) -> int:
        try:
            root: int = self._system.open(self._root, _FOLDER)
        except FileNotFoundError as error:
            raise Unreachable(f"store directory {self._root} is gone: is it mounted?") from error
        if identity(self._system.fstat(root)) != self._identity:
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


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from all others: its device and its number on it."""
    return status.st_dev, status.st_ino
