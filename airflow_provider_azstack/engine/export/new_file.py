"""
A large file that is there whole or not at all.

Owns the names, the lock and the errors of writing it; knows nothing of its content.
Invariant: the final name is that of a whole, synced file or of what was there before. Until then
the bytes are in a file beside it that says so, locked by its living writer; a dead one's is taken
over by the next.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import BinaryIO

from airflow_provider_azstack.errors import Refused, StoreError, StoreFull
from airflow_provider_azstack.speed import amount

FULL = {errno.ENOSPC, errno.EDQUOT}  # a disk, or a quota


def partial_name(target: Path) -> Path:
    """Return where a file's bytes are until it is whole."""
    return target.with_name(f".{target.name}.azstack-part")


@contextmanager
def replaced_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """
    Lend a file that gets the name ``target`` when the block ends well, and vanishes otherwise.

    :raises Refused: there is something of that name, or someone else is writing it.
    """
    _refuse_taken(target, overwrite=overwrite)
    partial = partial_name(target)
    with _locked(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _publish(partial, target, overwrite=overwrite)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()


def rename_new(old: str, new: str, folder: int | None = None) -> None:
    """
    Rename a file, unless there is something of its new name.

    :param folder: an open directory that both names are in; None: they are paths.
    :raises FileExistsError: there is.
    """
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # No hard links here, as on a stick with FAT.
        with suppress(FileNotFoundError):
            os.stat(new, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(old, dir_fd=folder)


def _refuse_taken(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        raise Refused(f"{target} is a directory: name a file")
    if target.is_symlink() or target.exists():
        if not overwrite:
            raise Refused(f"{target} exists: choose another name, or say --force to replace it")
        if not target.is_file() or target.is_symlink():
            raise Refused(f"{target} is no ordinary file and is not replaced")


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Lend an empty file that nobody else writes; what a killed export left is used again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with open(os.open(partial, flags, 0o600), "r+b", buffering=0) as file:  # noqa: PTH123 - flags
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise Refused(f"another export is writing {partial}") from None
            # Another process may have finished and taken the name away before we had the lock.
            if partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.lstat()):
                file.truncate(0)
                yield file
                return


def _publish(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        partial.replace(target)
    else:
        try:
            rename_new(str(partial), str(target))
        except FileExistsError:
            raise Refused(f"{target} was made by someone else meanwhile") from None
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def explained(where: Path | str, needed: Callable[[], int]) -> Iterator[None]:
    """
    Turn the system's errors into ours.

    :param needed: how many bytes are to be written.
    :raises StoreFull: there is no room for them.
    """
    try:
        yield
    except BrokenPipeError:
        raise StoreError(
            f"{where} was closed by its reader with {amount(needed())} to come"
        ) from None
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(f"{where}: no room for the {amount(needed())} that it takes") from None
        raise StoreError(f"{where}: {error.strerror or error}") from None
