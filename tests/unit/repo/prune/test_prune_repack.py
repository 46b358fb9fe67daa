"""What a collector stores again before it deletes, where there is room and where there is none."""

from collections.abc import Sequence

import pytest
from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.points import _image, _point, back_up_vm, digest_of, vm_key
from support.pruning import (
    CELLS,
    Used,
    forget_all,
    names,
    objects,
    through,
    used,
)
from support.repositories import new_repository, prose, reopen
from support.stores import FullStore, LostWrites

from airflow_provider_azstack.errors import (
    StoreFull,
)
from airflow_provider_azstack.model import Image, RestorePoint
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import OWNER_BYTES
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.prune import compaction
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.prune.repack import copy_blocks
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import BadBlock, BadBlocks
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Buffer, Store
from airflow_provider_azstack.store.guard import StoreWrapper

pytestmark = pytest.mark.tier1


def restored_disk(used: Used, key: tuple[str, str]) -> dict[int, bytes]:
    """Return the pages of a point's disk, read back before it is forgotten."""
    repository = used.open()
    image = repository.image(repository.point(*key).images[0].image)
    reader = ImageReader(image, repository.reader())
    return {
        page: reader.read(extent.offset, extent.length)
        for extent in reader.extents()
        for page in [extent.offset // 4096]
    }


def publish(session: Session, image: Image) -> RestorePoint:
    session.verify_present(group for group in image.regions if group)
    point = _point(session, [image], run="late", policy="p", number=2, day=5, previous="")
    return session.publish(point)


def test_segments_stay_when_what_replaces_them_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-S15: the store acknowledged a segment and has it not; the next collection tries again."""
    repository = used().open()
    prune(repository, dead_sessions=[used().dead])
    before = names(repository, "index/")
    monkeypatch.setattr(compaction, "MANY_SMALL", 2)

    def compact(store: Store) -> int:
        index = Index(repository.records)
        index.refresh()
        packs = names(repository, "packs/")
        return compaction.compact(through(repository, store), index, (), packs)

    assert compact(LostWrites(repository.store, lambda name: name.startswith("index/"))) == 0
    assert names(repository, "index/") == before
    assert compact(repository.store) == len(before) > 1
    assert len(names(repository, "index/")) == 1
    assert_repository_sound(reopen(repository), used().expected)


def test_a_pack_that_is_needed_after_all_is_copied_before_it_goes() -> None:
    """C5: a run that lived when a pack was condemned publishes a point with its blocks."""
    repository = used().open()
    first = used().forgotten[1]  # VM 2's: its pack is all dead once it is forgotten
    disk = SparseDisk(CELLS * 2**20)
    session = repository.open_session("backup", run="late")
    session.writer().abort()  # W2, W3: it has seen that nothing is condemned
    forget_all(repository, used())
    waits = prune(repository, dead_sessions=[used().dead])
    assert waits.of("wait")
    old = restored_disk(used(), first)
    disk.pages = dict(old)
    image = _image(session, "os", disk, run="late", key=vm_key(2), day=5, incremental=False)
    assert image.stored_bytes < 4096, "it counted on the condemned pack, as it may"
    point = publish(session, image)
    session.close()
    report = prune(repository)
    assert not report.of("keep")
    expected = {(point.vm.key, point.id): {"os": digest_of(disk)}}
    assert_repository_sound(reopen(repository), {**used().expected, **expected})
    assert not names(repository, "condemned/")


class Bounded(FullStore):
    """A store that gives back what is deleted."""

    def delete(self, name: str) -> None:
        size_bytes = self.inner.info(name).size_bytes
        super().delete(name)
        self.room_bytes += size_bytes


def test_a_full_store_can_be_pruned(repository: Repository) -> None:
    """F-S1: with the reserve that the last prune left, for any room that is left beside it."""
    prune(repository)
    forget_all(repository, used())
    for room_bytes in (0, 100, 2000, 10_000):
        copy = used().open()
        objects(copy).clear()
        objects(copy).update(objects(repository))
        store = Bounded(copy.store, room_bytes)
        report = prune(through(copy, store), dead_sessions=[used().dead])
        assert [row for row in report.of("delete") if row.name.startswith("packs/")]
        assert_repository_sound(reopen(copy), used().expected)
        assert names(copy, "reserve/"), "and leaves a reserve again"
    with pytest.raises(StoreFull):
        prune(through(used().open(), FullStore(used().open().store, 0)))


def test_a_pack_that_cannot_be_repacked_stays(repository: Repository) -> None:
    """There is room for what makes room, not for copies."""

    class NoPacks(StoreWrapper):
        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            if name.startswith("packs/"):
                raise StoreFull("no room for a pack")
            super().put(name, data)

    report = prune(through(repository, NoPacks(repository.store)), dead_sessions=[used().dead])
    assert len(report.of("keep")) == 1
    assert len([row for row in report.of("delete") if row.name.startswith("packs/")]) == 2
    assert_repository_sound(repository, used().expected)


def test_what_is_repacked_stays_compressed_as_it_was() -> None:
    repository = new_repository()
    session = repository.open_session("prune")
    with session.writer("small") as writer:
        stored = writer.add(prose(100_000))
        writer.flush()
    going, index = names(repository, "packs/"), session._own_index()
    copied = copy_blocks(repository, session, index, [stored.block_id], going=going, threads=1)
    assert copied == stored.new_bytes
    assert len(names(repository, "packs/")) == 2


def test_a_small_pack_that_is_all_needed_is_not_repacked_for_ever(repository: Repository) -> None:
    """What a pack has beside its blocks counts for little in a large one, for much in this."""
    disk = SparseDisk(4096)
    disk.write(0, bytes([7]) * 4096)
    back_up_vm(repository, {"os": disk}, number=5)
    prune(repository, dead_sessions=[used().dead])
    assert min(info.size_bytes for info in repository.store.list("packs/")) < 500
    assert prune(repository).rows == ()


def test_a_damaged_copy_is_not_the_one_that_is_kept(repository: Repository) -> None:
    """A block is stored twice, and verification found one of the copies bad."""
    disk = used().disks[1]
    day = 7
    for name in list(names(repository, "index/")):
        repository.store.delete(name)
    point = back_up_vm(repository, {"os": disk}, number=4, day=day, incremental=False)
    expected = {**used().expected, (point.vm.key, point.id): {"os": digest_of(disk)}}
    repository.rebuild_index()
    session = repository.open_session("look")
    index = session._own_index()
    index.refresh()
    owner = bytes.fromhex(point.session)[:OWNER_BYTES]
    with index.database() as database:
        rows = database.execute("SELECT b.id, p.id FROM blocks b JOIN packs p ON p.number = b.pack")
        bad = [BadBlock(block_id=b, pack=p.hex()) for b, p in rows if p.endswith(owner)]
    repository.records.put("bad/one", BadBlocks(blocks=tuple(bad)))
    session.close()
    report = prune(repository, dead_sessions=[used().dead])
    gone = {row.name for row in report.of("delete") if row.name.endswith(owner.hex())}
    assert gone, "all of it is elsewhere"
    assert_repository_sound(reopen(repository), expected)
