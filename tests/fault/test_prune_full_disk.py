"""A directory on a file system that is really full: forgetting and pruning make room on it."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.mounts import tmpfs
from support.points import back_up_vm, digest_of
from support.pruning import CELLS
from support.repositories import CHEAP, PASSPHRASE

from airflow_provider_azstack.errors import StoreFull
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path, 24) as place:
        yield place


def test_a_full_disk_can_be_forgotten_and_pruned_on(small_disk: Path) -> None:
    """F-S1: not one byte is free, and the reserve that the last prune left is all that it takes."""
    directory = small_disk / "repository"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), PASSPHRASE, kdf=CHEAP)
    disk, rng = SparseDisk(CELLS * 2**20), random.Random(1)
    points = []
    for day in range(2):
        for cell in range(CELLS):
            disk.write(cell * 2**20, rng.randbytes(800_000))
        points.append(back_up_vm(repository, {"os": disk}, day=day))
        disk.freeze()
    prune(repository)
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(os.urandom(4096))
            ballast.flush()
    with pytest.raises(StoreFull):
        back_up_vm(repository, {"os": disk}, number=2)
    first, second = points
    forget(repository, [(first.vm.key, first.id)])
    report = prune(repository, dead_sessions=list(repository.sessions()))
    assert report.freed_bytes > CELLS * 800_000
    assert list(repository.store.list("reserve/"))
    third = back_up_vm(repository, {"os": disk}, number=2)
    expected = {(point.vm.key, point.id): {"os": digest_of(disk)} for point in (second, third)}
    assert_repository_sound(repository, expected)
