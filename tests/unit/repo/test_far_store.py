"""A store that is far away: one request for each small thing, and many of them at once."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.disks import SparseDisk
from support.points import back_up_vm, vm_key
from support.repositories import PASSPHRASE, new_repository, noise
from support.stores import MemoryStore

from airflow_provider_azstack.repo.blocks import index
from airflow_provider_azstack.repo.copies.sync import sync
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.usage import usage
from airflow_provider_azstack.repo.verify.verification import verify
from airflow_provider_azstack.store.base import MOST_BYTES, Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import StoreWrapper
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1
VMS = 8


class Far(StoreWrapper):
    """
    Counts requests, and answers none of one kind before so many of them were under way at once.

    Whoever sends them one after the other gets his first answer after the time limit, as an error.
    """

    def __init__(self, inner: Store, verb: str = "", prefix: str = "") -> None:
        super().__init__(inner)
        self.asked = Counter[tuple[str, str]]()
        self.of_interest = verb, prefix
        self.together = 2
        self._waiting = 0
        self._lock = threading.Lock()
        self._met = threading.Event()

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._count("put", name)
        super().put(name, data)

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self._count("get", name)
        return super().get(name, most_bytes)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._count("range", name)
        return super().get_range(name, offset, length)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        self._count("range", name)
        if sum(length for _, length in ranges) > 2**20:
            self._wait_for_others("block", name)
        return super().get_ranges(name, ranges)

    def info(self, name: str) -> ObjectInfo:
        self._count("info", name)
        return super().info(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._count("list", prefix)
        return super().list(prefix)

    def delete(self, name: str) -> None:
        self._count("delete", name)
        super().delete(name)

    def _count(self, verb: str, name: str) -> None:
        self.asked[verb, name.partition("/")[0]] += 1
        self._wait_for_others(verb, name)

    def _wait_for_others(self, verb: str, name: str) -> None:
        wanted, prefix = self.of_interest
        if verb == wanted and name.startswith(prefix):
            with self._lock:
                self._waiting += 1
                if self._waiting >= self.together:
                    self._met.set()
            if not self._met.wait(timeout=60):
                raise AssertionError(f"{verb} {name}: only {self._waiting} were under way")


@pytest.fixture(scope="module")
def filled() -> MemoryStore:
    """Eight VMs of a disk each, every one a run of its own: a segment, a pack, a point."""
    store = MemoryStore()
    repository = new_repository(store)
    for number in range(VMS):
        disk = SparseDisk(2**20)
        disk.write(0, noise(number))
        back_up_vm(repository, {"os": disk}, number=number)
    return store


@pytest.fixture
def store(filled: MemoryStore) -> MemoryStore:
    fresh = MemoryStore()
    fresh.objects.update(filled.objects)
    return fresh


def reopen_at(store: Store) -> Repository:
    return Repository.open(store, PASSPHRASE)


def structure(repository: Repository) -> None:
    assert verify(repository, "structure").is_sound


def first_points(repository: Repository) -> None:
    repository.open_session("other")
    points = [(point.vm.key, point.id) for point in repository.points()]
    assert len(forget(repository, points, confirm=repository.id).points) == VMS


def many_sessions(repository: Repository) -> None:
    for _ in range(2):
        repository.open_session("other")
    assert len(repository.sessions()) == 2


def claims(repository: Repository) -> None:
    session = repository.open_session("backup")
    for number in range(VMS):
        session.claim(vm_key(number))
    session.close()


def restored(repository: Repository) -> None:
    image = repository.image(repository.points()[0].images[0].image)
    assert ImageReader(image, repository.reader()).read(0, 3000) == noise(0)


@pytest.mark.parametrize(
    ("verb", "prefix", "work"),
    [
        ("get", "points/", Repository.points),
        ("get", "jobs/", Repository.jobs),
        ("get", "sessions/", many_sessions),
        ("get", "index/", structure),
        ("get", "images/", structure),
        ("range", "packs/", structure),
        ("get", "images/", prune),
        ("range", "packs/", prune),
        ("get", "images/", lambda repository: usage(repository, lambda _: "all")),
        ("get", "index/", Repository.rebuild_index),
        ("delete", "points/", first_points),
        ("delete", "claims/", claims),
    ],
)
def test_what_is_far_away_is_asked_for_together(
    store: MemoryStore, verb: str, prefix: str, work: Callable[[Repository], object]
) -> None:
    """Two at least: alone, each would be answered with an error only."""
    if work in (structure, prune) and prefix != "index/":
        structure(reopen_at(store))  # what follows finds nothing to note
    work(reopen_at(Far(store, verb, prefix)))


class Noting(StoreWrapper):
    """Notes which threads read, on this machine or far away, and may list larger sizes."""

    def __init__(self, inner: Store, *, is_near: bool = False, listed_bytes: int = 0) -> None:
        super().__init__(inner)
        self.threads: set[threading.Thread] = set()
        self._is_near = is_near
        self._listed_bytes = listed_bytes

    @property
    def is_near(self) -> bool:
        return self._is_near

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self.threads.add(threading.current_thread())
        return super().get(name, most_bytes)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for name, size_bytes in super().list(prefix):
            yield ObjectInfo(name, max(size_bytes, self._listed_bytes))


@pytest.mark.parametrize("how", [{"is_near": True}, {"listed_bytes": 8 * 2**20}])
def test_what_is_near_or_large_is_read_by_one_thread(
    store: MemoryStore, how: dict[str, int]
) -> None:
    """Threads would gain nothing, or have too much in memory."""
    noting = Noting(store, **how)  # type: ignore[arg-type]
    assert len(reopen_at(noting).points()) == VMS
    assert noting.threads == {threading.current_thread()}


def test_a_record_is_one_request(store: MemoryStore) -> None:
    far = Far(store)
    repository = reopen_at(far)
    point = repository.points()[0]
    far.asked.clear()
    repository.point(point.vm.key, point.id)
    repository.image(point.images[0].image)
    assert far.asked == {("get", "points"): 1, ("get", "images"): 1}


def test_opening_a_repository_looks_at_nothing_twice(store: MemoryStore) -> None:
    far = Far(store)
    reopen_at(far)
    assert far.asked == {("get", "config"): 1, ("list", "keys"): 1, ("get", "keys"): 2}


def test_a_block_comes_with_what_opens_its_pack(store: MemoryStore) -> None:
    far = Far(store)
    restored(reopen_at(far))
    assert far.asked["range", "packs"] == 2  # the region's runs, then what they refer to


def test_a_verification_reads_the_image_of_each_newest_point_once(store: MemoryStore) -> None:
    far = Far(store)
    repository = reopen_at(far)
    verify(repository, "full")
    assert far.asked["get", "images"] == VMS


def test_many_packs_are_listed_folder_by_folder(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together, and all of them: what is looked at is the same."""
    few = verify(reopen_at(store), "structure")
    monkeypatch.setattr(index, "_MANY_PACKS", VMS)
    many = verify(reopen_at(Far(store, "list", "packs/")), "structure")
    assert (few.packs, few.pack_bytes) == (many.packs, many.pack_bytes) == (VMS, few.pack_bytes)
    assert many.is_sound


def test_a_cell_of_many_days_waits_once(store: MemoryStore) -> None:
    """Each day's pages are in that day's pack."""
    repository = reopen_at(store)
    disk = SparseDisk(2**20)
    disk.write(0, noise(99, 2**20))
    for day in range(4):
        disk.freeze()
        disk.write(day * 2**17, noise(100 + day, 4096))
        point = back_up_vm(repository, {"os": disk}, number=VMS, day=day)
    far = Far(store)
    repository = reopen_at(far)
    image = ImageReader(repository.image(point.images[0].image), repository.reader())
    image.runs(0, 2**20)  # the region's runs alone
    far.asked.clear()
    far.of_interest = "range", "packs/"
    data = bytearray(2**20)
    disk.read_into(0, memoryview(data))
    assert image.read(0, 2**20) == data
    assert far.asked["range", "packs"] == 4


@pytest.mark.parametrize("way", ["stream", "copy"])
def test_more_blocks_are_on_their_way_from_a_far_store_than_there_are_processors(
    way: str, tmp_path: Path
) -> None:
    """Five are asked for at once, where four would be from a near one."""
    store = MemoryStore()
    disk = SparseDisk(16 * 2**20)
    disk.write(0, noise(7, 16 * 2**20))
    point = back_up_vm(new_repository(store), {"os": disk})
    far = Far(store)
    repository = reopen_at(far)
    image = ImageReader(repository.image(point.images[0].image), repository.reader())
    far.of_interest, far.together = ("block", "packs/"), 5
    if way == "copy":
        [outcome] = sync(repository, new_repository(LocalStore(tmp_path)))
        assert outcome.status == "copied"
    else:
        data = b"".join(piece.data or b"" for piece in image.stream())
        assert len(data) == 16 * 2**20
