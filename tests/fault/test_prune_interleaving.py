"""
A real writer, a real reader and a real collector, or two, in every order that two switches make.

A tiny repository: one pack of a point that has just been forgotten, and a writer that would like to
count on its block. Whatever was told to be committed must restore, and the next collection must
find nothing wrong and leave nothing.
"""

from collections.abc import Sequence
from functools import cache

import pytest
from msgspec.structs import replace
from support.repositories import (
    PASSPHRASE,
    SMALL_PACK,
    VM_KEY,
    a_point,
    an_image,
    new_repository,
    noise,
)
from support.stepping import ALL, Work, calls_of, in_turns, two_switches
from support.stores import LostWrites, MemoryStore

from airflow_provider_azstack.errors import AzStackError, MissingBlock, ObjectNotFound, SessionLost
from airflow_provider_azstack.model import Image, RestorePoint
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import Run, store_runs
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Store

pytestmark = pytest.mark.tier2

WANTED, KEPT, MORE = noise(1, 700), noise(2, 700), noise(3, 700)


def store_image(session: Session, run: str, blocks: Sequence[bytes]) -> Image:
    """Store a disk of one block for each region, as a stream does: W2 to W5."""
    groups = []
    with session.writer() as writer:
        writer._pack_bytes = SMALL_PACK
        for block in blocks:
            runs = [Run(0, len(block), writer.add(block).block_id)]
            runs.append(Run(len(block), BLOCK_SIZE - len(block)))
            group, _ = store_runs(writer, runs)
            groups.append(group)
        writer.flush()
    image = an_image((), run, session.id)
    size = len(blocks) * BLOCK_SIZE
    return replace(image, regions=tuple(groups), size_bytes=size)


def back_up(repository: Repository, run: str, blocks: Sequence[bytes]) -> RestorePoint:
    """W1 to W7."""
    session = repository.open_session("backup", run=run)
    image = store_image(session, run, blocks)
    session.put_image(image)
    groups = [group for group in image.regions if group]
    session.verify_present([*groups, *map(repository.keys.block_id, blocks)])
    point = session.publish(replace(a_point(image, session, f"p-{run}"), set_id=f"s-{run}"))
    session.close()
    return point


def content(repository: Repository, point: RestorePoint) -> list[bytes]:
    image = repository.image(point.images[0].image)
    reader = ImageReader(image, repository.reader())
    return [reader.read(n * BLOCK_SIZE, 700) for n in range(len(image.regions))]


def opened(store: Store) -> Repository:
    return Repository.open(store, PASSPHRASE)


@cache
def start() -> dict[str, bytes]:
    """One point that stays, and one that has just been forgotten: its pack is all dead."""
    store = MemoryStore()
    repository = new_repository(store)
    back_up(repository, "kept", [KEPT])
    gone = back_up(repository, "gone", [WANTED, MORE])
    prune(repository)
    forget(repository, [(VM_KEY, gone.id)])
    for name in list(store.objects):
        if name.startswith(("jobs/", "reserve/")):
            del store.objects[name]
    store.objects["reserve/0"] = b"small, so that a copy costs nothing"
    return store.objects


def fresh() -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(start())
    return store


def writer(store: Store) -> RestorePoint:
    return back_up(opened(store), "new", [WANTED])


def collector(store: Store) -> None:
    prune(opened(store), threads=1)


def fencing_collector(store: Store) -> None:
    """Believes of every session that it is dead."""
    repository = opened(store)
    prune(repository, dead_sessions=list(repository.sessions()), threads=1)


def assert_sound(store: MemoryStore, committed: Sequence[object]) -> None:
    """What was committed restores; then all is collected, and it restores still."""
    expected = {"p-kept": [KEPT]}
    expected |= {p.id: [WANTED] for p in committed if isinstance(p, RestorePoint)}
    for is_last in (False, True):
        repository = opened(store)
        points = {point.id: point for point in repository.points()}
        assert expected.keys() <= points.keys(), "a committed point is gone"
        for name, point in points.items():
            assert content(repository, point) == expected.get(name, [WANTED])
        if not is_last:
            prune(repository, dead_sessions=list(repository.sessions()), threads=1)
    assert not list(store.list("condemned/"))


def explore(
    works: Sequence[Work], allowed: tuple[type[Exception], ...], *, either: bool = True
) -> tuple[int, int, int]:
    """Run all orders; return how many there were, and how often each work did what it should."""
    lengths = [len(calls_of(fresh(), work)) for work in works]
    orders, done = 0, [0, 0]
    for stretches in two_switches(*lengths, either=either):
        store = fresh()
        results = in_turns(store, works, stretches)
        for number, result in enumerate(results):
            done[number] += not isinstance(result, Exception)
            assert not isinstance(result, Exception) or isinstance(result, allowed), stretches
        try:
            assert_sound(store, results)
        except (AssertionError, AzStackError) as error:
            raise AssertionError(f"order {stretches}: {error}") from error
        orders += 1
    return orders, done[0], done[1]


def test_a_writer_and_a_collector_in_every_order() -> None:
    """F-K2: the writer counts on a pack that the collector is about to delete."""
    orders, committed, collected = explore([writer, collector], (MissingBlock,))
    assert orders == 840
    assert collected == orders
    # It fails only where the list was published, and who may go on counting on it was not yet.
    assert committed > 0.9 * orders


def test_a_writer_and_a_collector_that_fences_it_in_every_order() -> None:
    """F-K2: belief may be wrong: a failed backup, never a lost one."""
    orders, committed, collected = explore(
        [writer, fencing_collector], (SessionLost, MissingBlock, ObjectNotFound)
    )
    assert orders == 870
    assert collected == orders
    assert 0.1 * orders < committed < orders


def test_two_collectors_in_every_order() -> None:
    """F-K8: two prunes at once; one that stalls resumes after the other has finished."""
    orders, first, second = explore([collector, collector], (), either=False)
    assert first == second == orders == 784


def test_a_stalled_collector_resumes_after_the_content_was_stored_again() -> None:
    """F-K8: it had marked, and deletes; meanwhile another finished, and a backup came and went."""

    def one(store: Store) -> None:
        repository = opened(store)
        prune(repository, dead_sessions=list(repository.sessions()), threads=1)

    def other_and_backup(store: Store) -> RestorePoint:
        repository = opened(store)
        prune(repository, dead_sessions=list(repository.sessions()), threads=1)
        return back_up(opened(store), "new", [WANTED])

    stalled = len(calls_of(fresh(), one))
    for after in range(stalled + 1):
        store = fresh()
        results = in_turns(store, [one, other_and_backup], [(0, after), (1, ALL), (0, ALL)])
        assert isinstance(results[1], RestorePoint)
        assert results[0] is None or isinstance(results[0], SessionLost)
        assert_sound(store, results)


def test_a_restore_and_a_collector_in_every_order() -> None:
    """F-K4: a restore that has begun finishes, whatever is forgotten and collected meanwhile."""

    def reader(store: Store) -> list[bytes]:
        repository = opened(store)
        session = repository.open_session("restore")
        try:
            point = repository.points(VM_KEY)[0]
            return content(repository, point)
        finally:
            session.close()

    def forgetting_collector(store: Store) -> None:
        repository = opened(store)
        forget(repository, [(VM_KEY, point.id) for point in repository.points()[:1]])
        prune(repository, threads=1)

    before = MemoryStore()
    repository = new_repository(before)
    back_up(repository, "kept", [KEPT])
    back_up(repository, "later", [WANTED])
    lengths = [len(calls_of(copy_of(before), work)) for work in (reader, forgetting_collector)]
    orders = 0
    for stretches in two_switches(*lengths, either=False):
        store = copy_of(before)
        read, _ = in_turns(store, [reader, forgetting_collector], stretches)
        assert read in ([KEPT], [WANTED]), stretches
        orders += 1
    assert orders > 100


def copy_of(before: MemoryStore) -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(before.objects)
    return store


def test_a_base_is_forgotten_between_condemning_and_marking_again() -> None:
    """F-K5 (PSA-2025-00019): a new image takes over blocks of a point that goes meanwhile."""
    marks = [n for n, call in enumerate(calls_of(fresh(), collector)) if call == "list points"]
    assert len(marks) == 2
    for at in range(marks[1] + 1):
        store = MemoryStore()
        repository = new_repository(store)
        back_up(repository, "kept", [KEPT])
        back_up(repository, "litter", [MORE])
        base = back_up(repository, "base", [WANTED])
        forget(repository, [(VM_KEY, "p-litter")])

        def forget_base(store: Store, base: RestorePoint = base) -> RestorePoint:
            point = back_up(opened(store), "new", [WANTED])
            forget(opened(store), [(VM_KEY, base.id)])
            return point

        results = in_turns(store, [forget_base, collector], [(1, at), (0, ALL), (1, ALL)])
        assert isinstance(results[0], RestorePoint), results
        assert_sound(store, results)


def needed_after_all() -> tuple[MemoryStore, RestorePoint]:
    """A point that was published while its pack was condemned, and the collector waited for it."""
    store = fresh()
    session = opened(store).open_session("backup", run="late")
    session.writer().abort()  # W2, W3: nothing is condemned yet
    prune(opened(store), threads=1)  # waits for that session
    image = store_image(session, "late", [WANTED])
    session.put_image(image)
    late = session.publish(a_point(image, session, "p-late"))
    session.close()
    return store, late


@pytest.mark.parametrize("kind", ["packs/", "index/"])
def test_a_condemned_pack_stays_when_what_was_copied_out_of_it_is_lost(kind: str) -> None:
    """F-S15: the store acknowledged the copy and has it not; the next collection copies again."""
    store, late = needed_after_all()
    lossy = LostWrites(store, lambda name: name.startswith(kind))
    report = prune(opened(lossy), threads=1)
    assert [row.because for row in report.of("keep")] == [
        "it is needed after all, and what was copied out of it is not there"
    ]
    assert content(opened(store), late) == [WANTED]
    assert_sound(store, [late])


def test_a_pack_that_was_spared_is_not_counted_on_before_a_stalled_collector_deletes_it() -> None:
    """
    F-K8: what is needed after all is copied, and the condemned pack goes all the same.

    Were it taken off the list instead, this would lose a point: collector A stalls at the gate; B
    finds the pack needed and spares it; the point that needs it is forgotten; A wakes, marks, finds
    it not needed, and stalls again; a writer finds it on no list and counts on it; A deletes it.
    """
    before, late = needed_after_all()

    def other(store: Store) -> None:
        prune(opened(store), threads=1)
        forget(opened(store), [(VM_KEY, late.id)])

    unneeded = copy_of(before)
    forget(opened(unneeded), [(VM_KEY, late.id)])
    delete = calls_of(unneeded, collector).index("delete packs")
    assert delete > 10
    for stall in range(delete):
        store = copy_of(before)
        stretches = [(0, stall), (1, ALL), (0, delete - stall), (2, ALL), (0, ALL)]
        results = in_turns(store, [collector, other, writer], stretches)
        assert results[:2] == [None, None], (stall, results)
        assert isinstance(results[2], RestorePoint), (stall, results)
        assert_sound(store, results)
