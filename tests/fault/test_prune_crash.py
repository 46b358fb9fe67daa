"""A collector that dies at any call to the store: nothing needed goes; the next one finishes."""

from functools import cache
from pathlib import Path

import pytest
from oracle import assert_repository_sound
from support.points import back_up_vm, digest_of
from support.pruning import CELLS, Used, forget_all, used_repository
from support.repositories import PASSPHRASE, reopen
from support.stores import Crash, CrashingStore

from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier2


@cache
def used() -> Used:
    return used_repository()


def forget_and_prune(repository: Repository) -> None:
    forget_all(repository, used())
    prune(repository, dead_sessions=[used().dead], threads=1)


@cache
def calls() -> list[tuple[str, str]]:
    store = CrashingStore(used().open().store)
    forget_and_prune(Repository.open(store, PASSPHRASE))
    return store.log


def assert_finished(repository: Repository) -> None:
    """A second prune finishes: nothing that may go is left, and all that must stay restores."""
    forget_all(repository, used())
    prune(reopen(repository), dead_sessions=list(repository.sessions()))
    assert prune(reopen(repository), dry_run=True).rows == ()
    for prefix in ("condemned/", "sessions/", "claims/"):
        assert not list(repository.store.list(prefix))
    assert_repository_sound(repository, used().expected)


def assert_next_run_succeeds(repository: Repository) -> None:
    """R3: an ordinary run over a disk that the dead run had begun, with no manual step."""
    disk = used().disks[3]
    point = back_up_vm(repository, {"os": disk}, number=3, day=9)
    expected = {(point.vm.key, point.id): {"os": digest_of(disk)}}
    assert_repository_sound(repository, {**used().expected, **expected})


def test_a_collection_makes_the_calls_that_the_walker_walks() -> None:
    """F-C3: condemn, gate, mark again, copy, delete, index, record: all of it is walked."""
    kinds = [(what, name.partition("/")[0]) for what, name in calls()]
    assert kinds[:6] == [
        ("put", "forgotten"),
        ("put", "claims"),  # a run that is not over is told
        ("delete", "points"),
        ("delete", "points"),
        ("delete", "sessions"),  # C1
        ("put", "sessions"),
    ]
    order = [("put", "packs"), ("put", "index"), ("put", "condemned"), ("delete", "packs")]
    order += [("delete", "images"), ("delete", "index"), ("delete", "condemned")]
    places = [kinds.index(kind) for kind in order]
    assert places == sorted(places)
    assert kinds[-1] == ("delete", "sessions")
    assert kinds.count(("delete", "packs")) == 3
    assert len(kinds) == 26


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_crash_at_any_call_of_a_collection(mode: str) -> None:
    """F-C3: no live pack is deleted; a second prune finishes the job."""
    for at in range(len(calls())):
        repository = used().open()
        crashing = CrashingStore(repository.store, at, mode)  # type: ignore[arg-type]
        with pytest.raises(Crash):
            forget_and_prune(Repository.open(crashing, PASSPHRASE))
        assert_repository_sound(repository, used().expected)
        assert_finished(repository)
    assert_next_run_succeeds(repository)


def test_a_crash_in_the_middle_of_any_write_of_a_collection(tmp_path: Path) -> None:
    """F-C3, torn: half an object in a temporary file, in a directory."""
    puts = [at for at, (what, _) in enumerate(calls()) if what == "put"]
    assert len(puts) >= 8
    for at in puts:
        directory = tmp_path / str(at)
        for name, content in used().objects.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        with pytest.raises(Crash):
            crashing = CrashingStore(LocalStore(directory), at, "torn")
            forget_and_prune(Repository.open(crashing, PASSPHRASE))
        assert_finished(Repository.open(LocalStore(directory), PASSPHRASE))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_backup_of_what_a_killed_collector_had_begun_to_delete(number: int) -> None:
    """F-K6 (borg #9748): killed after the first, the second, the third pack that it deleted."""
    deletes = [
        at for at, (what, name) in enumerate(calls()) if what == "delete" and "packs/" in name[:6]
    ]
    repository = used().open()
    crashing = CrashingStore(repository.store, deletes[number], "after")
    with pytest.raises(Crash):
        forget_and_prune(Repository.open(crashing, PASSPHRASE))
    # What the dead run had stored, it is all in packs that are gone or about to go.
    point = back_up_vm(reopen(repository), {"os": used().disks[3]}, number=3, day=9)
    expected = {(point.vm.key, point.id): {"os": digest_of(used().disks[3])}}
    assert_repository_sound(repository, {**used().expected, **expected})
    prune(reopen(repository), dead_sessions=list(repository.sessions()))
    assert_repository_sound(repository, {**used().expected, **expected})
    assert sum(image.stored_bytes for image in point.images) > CELLS * 4096
