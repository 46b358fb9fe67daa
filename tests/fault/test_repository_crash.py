"""A process that dies at any call to the store leaves a repository that the next run just uses."""

import pytest
from support.repositories import back_up, new_repository, noise, reopen, restore
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import MissingBlock
from airflow_provider_azstack.repo.repository import Repository

pytestmark = pytest.mark.tier1

EARLIER = [noise(seed) for seed in range(3)]
BLOCKS = [noise(seed, 600_000) for seed in range(4)] + EARLIER[:2]
MODES = ("before", "after", "torn")


def fresh() -> tuple[MemoryStore, Repository]:
    """Return a repository that already holds one restore point."""
    store = MemoryStore()
    repository = new_repository(store)
    back_up(repository, EARLIER, "run-0")
    return store, repository


def calls_of_a_backup() -> list[tuple[str, str]]:
    _, repository = fresh()
    store = CrashingStore(repository.store)
    back_up(reopen(repository, store), BLOCKS)
    return store.log


def recover(repository: Repository) -> None:
    """Do what a janitor does: fence what died. Nothing else is needed before the next run."""
    for session in repository.sessions():
        repository.fence(session)


def assert_sound(repository: Repository) -> None:
    """R1, R2: every point there is restores."""
    for point in repository.points():
        expected = EARLIER if point.run == "run-0" else BLOCKS
        assert restore(repository, point) == expected


def test_a_backup_makes_the_calls_that_the_walker_walks() -> None:
    """F-C1: N calls covered; a new kind of call shows here first."""
    kinds = [(what, name.partition("/")[0]) for what, name in calls_of_a_backup()]
    assert kinds[:3] == [("put", "sessions"), ("put", "claims"), ("put", "sets")]
    assert kinds[-5:] == [
        ("put", "index"),
        ("put", "images"),
        ("put", "points"),
        ("delete", "claims"),
        ("delete", "sessions"),
    ]
    assert set(kinds[3:-5]) == {("put", "packs")}
    assert len(kinds) >= 10


@pytest.mark.parametrize("mode", MODES)
def test_a_crash_at_any_call_of_a_backup(mode: str) -> None:
    """F-C1: no point before it is published, a complete one after; the rerun succeeds each time."""
    calls = calls_of_a_backup()
    publish = next(n for n, (_, name) in enumerate(calls) if name.startswith("points/"))
    for at in range(len(calls)):
        _, repository = fresh()
        crashing = CrashingStore(repository.store, at, mode)  # type: ignore[arg-type]
        with pytest.raises(Crash):
            back_up(reopen(repository, crashing), BLOCKS)
        after = reopen(repository)
        is_published = at > publish or (at == publish and mode == "after")
        assert [point.run for point in after.points()] == ["run-0"] + ["run-1"] * is_published
        assert_sound(after)
        recover(after)
        back_up(after, BLOCKS, "run-2")
        assert {point.run for point in after.points()} >= {"run-0", "run-2"}
        assert_sound(reopen(repository))
        assert after.sessions() == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_rerun_stores_nothing_that_was_indexed(mode: str) -> None:
    """What a killed run made durable is not sent again."""
    calls = calls_of_a_backup()
    index = next(n for n, (_, name) in enumerate(calls) if name.startswith("index/"))
    store, repository = fresh()
    with pytest.raises(Crash):
        back_up(reopen(repository, CrashingStore(store, index + 1, mode)), BLOCKS)  # type: ignore[arg-type]
    before = store.names("packs/")
    recover(repository)
    back_up(reopen(repository), BLOCKS, "run-2")
    assert store.names("packs/") == before


def test_a_fenced_writer_that_resumes_harms_nobody() -> None:
    """
    F-K7, at the repository's level: its packs are collected while it sleeps, then it goes on.

    It puts a segment that names packs that are gone. The next run must not rely on them.
    """
    store, repository = fresh()
    sleeper = repository.open_session("backup")
    writer = sleeper.writer()
    writer.add(BLOCKS[0])
    pack = writer._current
    assert pack is not None
    writer._retire_current()
    writer._upload(pack)
    repository.fence(sleeper.id)
    store.delete(pack.name)
    writer.flush()
    with pytest.raises(MissingBlock):
        repository.reader().read(repository.keys.block_id(BLOCKS[0]))
    back_up(reopen(repository), BLOCKS)
    assert_sound(reopen(repository))
