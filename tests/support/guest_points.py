"""Restore points of real guests' disks, in a repository in a directory."""

import mmap
from pathlib import Path

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

from .disks import CHEAP, PAGE, PASSPHRASE, SparseDisk
from .points import back_up_vm


def disk_of(path: Path, footer: bytes = b"") -> SparseDisk:
    """Return a disk image as a source of backups; pages of zeros are not allocated."""
    disk = SparseDisk(path.stat().st_size, footer)
    zeros = bytes(PAGE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for offset in range(0, len(data), PAGE):
            page = data[offset : offset + PAGE]
            if page != zeros:
                disk.pages[offset // PAGE] = page
    return disk


def repository_with(directory: Path, **disks: SparseDisk) -> tuple[Repository, RestorePoint]:
    """Create a repository in a directory, with one restore point of ``vm-1``."""
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), PASSPHRASE, kdf=CHEAP)
    keyed = {key.replace("_", "-"): disk for key, disk in disks.items()}
    return repository, back_up_vm(repository, keyed)
