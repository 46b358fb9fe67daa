"""A repository in which there is something of everything that a collector may meet."""

import random
from functools import cache
from typing import NamedTuple

from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of, vm_key
from support.repositories import PASSPHRASE, new_repository
from support.stores import MemoryStore

from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.points.retention import PointKey
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.base import Store

CELL = 2**20
CELLS = 5
Digests = dict[PointKey, dict[str, str]]


class Used(NamedTuple):
    """A repository as bytes, to be copied for every try; and what must restore from it."""

    objects: dict[str, bytes]
    expected: Digests
    forgotten: tuple[PointKey, ...]  # still there: to be forgotten
    dead: str  # a session whose run died
    disks: dict[int, SparseDisk]

    def open(self, wrap: type[Store] | None = None) -> Repository:
        """Return a copy of it, opened as another process would."""
        store = MemoryStore()
        store.objects = dict(self.objects)
        return Repository.open(wrap(store) if wrap else store, PASSPHRASE)  # type: ignore[call-arg]


def fill(disk: SparseDisk, cells: range, rng: random.Random) -> None:
    """Change one page in each of some cells: one small block each."""
    for cell in cells:
        disk.write(cell * CELL, rng.randbytes(4096))


def used_repository(seed: int = 1) -> Used:
    """
    Make one.

    VM 1 was backed up three times; when its first point is forgotten, the first pack is mostly
    dead. VM 2 was written anew before its second backup: its first pack is then all dead. A third
    run died after it had stored a pack and an image that no point has.
    """
    rng = random.Random(seed)
    repository = new_repository()
    disks = {number: SparseDisk(CELLS * CELL) for number in (1, 2, 3)}
    expected: Digests = {}

    def back_up(number: int, day: int, cells: range) -> PointKey:
        fill(disks[number], cells, rng)
        # Nothing is compared: what changed is stored as blocks of its own, one for each cell.
        point = back_up_vm(
            repository, {"os": disks[number]}, number=number, day=day, incremental=False
        )
        expected[point.vm.key, point.id] = {"os": digest_of(disks[number])}
        return point.vm.key, point.id

    first = back_up(1, 0, range(CELLS))
    gone = back_up(2, 0, range(CELLS))
    back_up(1, 1, range(1, CELLS))
    back_up(2, 1, range(CELLS))
    back_up(1, 2, range(CELLS - 1, CELLS))
    dead = dead_run(repository, disks[3], rng)
    store = repository.store
    assert isinstance(store, MemoryStore)
    kept = {key: digests for key, digests in expected.items() if key not in (first, gone)}
    return Used(dict(store.objects), kept, (first, gone), dead, disks)


def dead_run(repository: Repository, disk: SparseDisk, rng: random.Random) -> str:
    """Store a pack and an image, and die before the point."""
    from support.points import _image

    fill(disk, range(CELLS), rng)
    session = repository.open_session("backup", run="dead")
    session.claim(vm_key(3))
    _image(session, "os", disk, run="dead", key=vm_key(3), day=0, incremental=False)
    return session.id


def forget_all(repository: Repository, used: Used) -> None:
    forget(repository, used.forgotten)


@cache
def used() -> Used:
    return used_repository()


def through(repository: Repository, store: Store) -> Repository:
    return Repository.open(store, PASSPHRASE)


def objects(repository: Repository) -> dict[str, bytes]:
    assert isinstance(repository.store, MemoryStore)
    return repository.store.objects


def names(repository: Repository, prefix: str) -> set[str]:
    return {info.name for info in repository.store.list(prefix)}


def assert_nothing_went(repository: Repository, before: set[str]) -> None:
    assert before - names(repository, "") <= names_that_come_and_go(before)
    assert_repository_sound(repository, used().expected)


def names_that_come_and_go(before: set[str]) -> set[str]:
    return {name for name in before if name.startswith(("sessions/", "census/"))}
