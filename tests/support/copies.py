"""A site to be copied: a VM's restore points, what they must restore to, and ways to lose them."""

from random import Random

from support.damage import flipped
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of
from support.repositories import CHEAP, new_repository
from support.stores import MemoryStore

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import BadBlock, BadBlocks
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store

MIB = 1024**2
OTHER = Secret("another passphrase")


def other_repository(store: Store | None = None) -> Repository:
    return Repository.create(store or MemoryStore(), OTHER, kdf=CHEAP)[0]


class Site:
    """A VM of two disks, its restore points, and what each must restore to."""

    def __init__(self, *, points: int = 2, size_bytes: int = 5 * MIB) -> None:
        self.repository = new_repository()
        self.noise = Random(7)
        self.disks = {"os": SparseDisk(size_bytes), "data-0": SparseDisk(3 * MIB)}
        for offset in range(0, 4 * MIB, MIB):
            self.disks["os"].write(offset, self.noise.randbytes(40_000))
        self.disks["data-0"].write(MIB, b"text " * 10_000)
        self.expected: dict[tuple[str, str], dict[str, str]] = {}
        self.points = [self.back_up(day) for day in range(points)]

    def back_up(self, day: int) -> RestorePoint:
        point = back_up_vm(self.repository, self.disks, day=day)
        digests = {key: digest_of(disk) for key, disk in self.disks.items()}
        self.expected[point.vm.key, point.id] = digests
        for disk in self.disks.values():
            disk.freeze()
            disk.write(2 * MIB + day * 8192, self.noise.randbytes(5000))
        return point


def damage(repository: Repository, how: str) -> None:
    """Lose something of a kind that a repair can bring back."""
    store = repository.store
    assert isinstance(store, MemoryStore)
    names = sorted(store.objects)
    packs = [name for name in names if name.startswith("packs/")]
    if how == "blocks are bad":
        mark_bad(repository, packs)
    elif how == "a pack is cut":
        store.objects[packs[0]] = store.objects[packs[0]][:-100]
    else:
        kind, what = how.split()
        for name in [name for name in names if name.startswith(f"{kind}/")]:
            if what == "gone":
                store.delete(name)
            else:
                store.objects[name] = flipped(store.objects[name], -1)


def mark_bad(repository: Repository, packs: list[str]) -> None:
    """Flip a bit in every block, and say so as a verification does."""
    index = repository.reader()._index
    index.refresh()
    with index.database() as database:
        rows = database.execute("SELECT b.id, p.id FROM blocks b JOIN packs p ON p.number = b.pack")
        blocks = tuple(BadBlock(block_id=block, pack=pack.hex()) for block, pack in rows)
    store = repository.store
    assert isinstance(store, MemoryStore)
    for name in packs:
        data = store.objects[name]
        store.objects[name] = flipped(data, *range(200, len(data) - 200, 97))
    repository.records.put("bad/1", BadBlocks(blocks=blocks))
