"""Damage is found, named, and never returned as data."""

import itertools

import pytest
from support.repositories import (
    PASSPHRASE,
    VM_KEY,
    back_up,
    new_repository,
    noise,
    reopen,
    restore,
)
from support.stores import MemoryStore

from airflow_provider_azstack.errors import (
    AzStackError,
    IncompatibleRepository,
    IntegrityError,
    MissingBlock,
    Tampered,
    WrongKey,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import CondemnedPacks

pytestmark = pytest.mark.tier1

ONE, OTHER = [b"text " * 20, noise(1, 90)], [noise(2, 70)]


class Damaged:
    """A repository with two points that share nothing, and one more of another VM's."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.repository = new_repository(self.store)
        self.one = back_up(self.repository, ONE, "run-1")
        self.other = back_up(self.repository, OTHER, "run-2")
        self.intact = dict(self.store.objects)
        self.index = reopen(self.repository)
        restore(self.index, self.one)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.intact if name.startswith(prefix))

    def pack_of(self, run: str) -> str:
        block = next(iter(self.repository.images(run))).regions[0]
        assert block is not None
        assert self.index._index is not None
        text = self.index._index.locations(block)[0].pack.hex()
        return f"packs/{text[:2]}/{text}"

    def heal(self) -> None:
        self.store.objects.clear()
        self.store.objects.update(self.intact)


@pytest.fixture(scope="module")
def damaged() -> Damaged:
    return Damaged()


@pytest.fixture(autouse=True)
def _heal(damaged: Damaged) -> None:
    damaged.heal()


def test_a_flip_of_any_byte_of_a_pack(damaged: Damaged) -> None:
    """
    F-S4, exhaustive: restore fails with ``Tampered`` that names the pack, or is exact.

    Exact, because bytes that only a rebuild needs (directory, trailer) do not matter to it. The
    other point always restores.
    """
    pack = damaged.pack_of("run-1")
    failed = 0
    for at in range(len(damaged.intact[pack])):
        data = bytearray(damaged.intact[pack])
        data[at] ^= 1 << (at % 8)
        damaged.store.objects[pack] = bytes(data)
        damaged.index.reader()._ciphers.clear()
        try:
            assert restore(damaged.index, damaged.one) == ONE
        except Tampered as error:
            assert pack in str(error)  # noqa: PT017 (either way is right, depending on the byte)
            failed += 1
        assert restore(damaged.index, damaged.other) == OTHER
    image = next(iter(damaged.repository.images("run-1")))
    assert damaged.index._index is not None
    copies = [damaged.index._index.locations(block)[0] for block in image.regions if block]
    assert failed == max(copy.entry.end for copy in copies)  # every byte of header and records


def test_a_flip_of_any_byte_of_a_pack_is_survived_by_a_rebuild(damaged: Damaged) -> None:
    """F-S4: what is still whole is found again, what is not is never returned."""
    pack = damaged.pack_of("run-1")
    for at in range(0, len(damaged.intact[pack]), 3):
        data = bytearray(damaged.intact[pack])
        data[at] ^= 0x10
        damaged.heal()
        damaged.store.objects[pack] = bytes(data)
        for name in damaged.names("index/"):
            damaged.store.delete(name)
        repository = reopen(damaged.repository)
        rebuilt = repository.rebuild_index()
        assert rebuilt.damaged in ((), (pack,))
        reader = repository.reader()
        for block in ONE:
            try:
                assert reader.read(repository.keys.block_id(block)) == block
            except (Tampered, MissingBlock):
                continue
        assert restore(repository, damaged.other) == OTHER


@pytest.mark.parametrize("prefix", ["images/run-1/", "points/"])
def test_a_flip_of_any_byte_of_a_record(damaged: Damaged, prefix: str) -> None:
    """F-S5: images and points authenticate as a whole and are named."""
    name = damaged.names(prefix)[0]
    for at in range(len(damaged.intact[name])):
        data = bytearray(damaged.intact[name])
        data[at] ^= 1 << (at % 8)
        damaged.store.objects[name] = bytes(data)
        with pytest.raises(Tampered, match=name):
            list(damaged.repository.images("run-1"))
            damaged.repository.points()


def test_a_flip_of_any_byte_of_the_config(damaged: Damaged) -> None:
    """F-S5: no altered config opens, whatever it says; nothing is written."""
    for at in range(len(damaged.intact["config"])):
        data = bytearray(damaged.intact["config"])
        data[at] ^= 1 << (at % 8)
        damaged.store.objects["config"] = bytes(data)
        with pytest.raises((Tampered, WrongKey, IncompatibleRepository)):
            Repository.open(damaged.store, PASSPHRASE)
    assert len(damaged.store.objects) == len(damaged.intact)


def test_a_flip_of_any_byte_of_the_keys(damaged: Damaged) -> None:
    """
    F-S5: a damaged key does not open; the error names it.

    Unless what is damaged is what the passphrase opens: that is as if it were the wrong one.
    """
    first, second = damaged.names("keys/")
    for at in range(max(len(damaged.intact[name]) for name in (first, second))):
        for name in (first, second):
            data = bytearray(damaged.intact[name])
            data[at % len(data)] ^= 1
            damaged.store.objects[name] = bytes(data)
        try:
            Repository.open(damaged.store, PASSPHRASE)
        except WrongKey as error:
            told = str(error)
            assert first in told or second in told or "none of 2 keys" in told
            continue
        pytest.fail(f"byte {at} of the keys was not checked")


def test_a_flip_of_any_byte_of_the_index(damaged: Damaged) -> None:
    """F-S5: a damaged segment is not believed, and rebuilt from the packs."""
    names = damaged.names("index/")
    for at in range(0, len(damaged.intact[names[0]]), 5):
        damaged.heal()
        for name in names:
            data = bytearray(damaged.intact[name])
            data[at % len(data)] ^= 1 << (at % 8)
            damaged.store.objects[name] = bytes(data)
        repository = reopen(damaged.repository)
        with pytest.raises(MissingBlock, match="rebuild the index"):
            restore(repository, damaged.one)
        repository.rebuild_index()
        assert restore(reopen(repository), damaged.one) == ONE


def cuts(size: int) -> list[int]:
    return sorted({0, 1, size // 2, size - 1})


def test_every_kind_of_object_cut_short(damaged: Damaged) -> None:
    """F-S6: to 0, 1, half, all but one byte: detected; an empty point is not "no point"."""
    damaged.repository.records.put("condemned/1/packs", CondemnedPacks(packs=()))
    objects = dict(damaged.store.objects)
    named = {name.partition("/")[0]: name for name in sorted(objects)}
    named["packs"] = damaged.pack_of("run-1")
    assert {"config", "keys", "packs", "index", "images", "points", "condemned"} <= named.keys()
    for kind, name in named.items():
        for length in cuts(len(objects[name])):
            damaged.store.objects.clear()
            damaged.store.objects.update(objects)
            affected = damaged.names("keys/") if kind == "keys" else [name]
            if kind == "index":
                affected = damaged.names("index/")
            for each in affected:
                damaged.store.objects[each] = objects[each][: min(length, len(objects[each]) - 1)]
            if kind == "sets":
                with pytest.raises(Tampered, match=name):
                    list(itertools.chain(*(damaged.repository.sets(f"run-{n}") for n in (1, 2))))
                continue
            if kind == "packs" and length == len(objects[name]) - 1:
                continue  # its trailer: restore does not need it; a writer sees another size
            with pytest.raises((IntegrityError, IncompatibleRepository)):
                use_everything(damaged)


def use_everything(damaged: Damaged) -> None:
    repository = Repository.open(damaged.store, PASSPHRASE)
    for point in repository.points():
        restore(repository, point)
    session = repository.open_session("check")
    session.writer()
    session.close()


def test_a_lost_pack_is_named_and_stored_again(damaged: Damaged) -> None:
    """F-S7: points that need it fail and say so; the next backup of the same content heals them."""
    pack = damaged.pack_of("run-1")
    damaged.store.delete(pack)
    repository = reopen(damaged.repository)
    with pytest.raises(MissingBlock, match=pack):
        restore(repository, damaged.one)
    assert restore(repository, damaged.other) == OTHER
    again = back_up(repository, ONE, "run-3")
    fresh = reopen(repository)
    assert restore(fresh, again) == restore(fresh, damaged.one) == ONE


@pytest.mark.parametrize("kind", ["packs/", "images/", "points/", "index/"])
def test_two_objects_of_a_kind_are_swapped(damaged: Damaged, kind: str) -> None:
    """F-S9: authentication fails, for every kind of object has its name bound."""
    names = damaged.names(kind)
    one, other = names[0], names[-1]
    objects = damaged.store.objects
    objects[one], objects[other] = objects[other], objects[one]
    repository = reopen(damaged.repository)
    with pytest.raises(IntegrityError):
        for point in repository.points():
            restore(repository, point)


def test_a_point_is_renamed_to_another_vm(damaged: Damaged) -> None:
    """F-S9: nobody's restore point becomes another VM's."""
    other = "99999999-2222-3333-4444-555555555555"
    name = damaged.names("points/")[0]
    objects = damaged.store.objects
    objects[name.replace(VM_KEY, other)] = objects.pop(name)
    with pytest.raises(Tampered, match=other):
        damaged.repository.points(other)


def test_a_record_of_one_kind_is_none_of_another(damaged: Damaged) -> None:
    """F-S9: the kind is bound as well."""
    [image, *_] = damaged.names("images/")
    [point, *_] = damaged.names("points/")
    damaged.store.objects[image] = damaged.intact[point]
    with pytest.raises(AzStackError, match=image):
        damaged.repository.image(image)
