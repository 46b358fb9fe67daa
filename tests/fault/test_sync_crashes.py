"""Crash walkers: a sync and a repair die at every store call, in each of three modes."""

import itertools
from typing import Literal

import pytest
from oracle import assert_repository_sound
from support.copies import OTHER, Site, damage, other_repository
from support.repositories import PASSPHRASE, reopen
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.repo.copies.sync import repair, sync
from airflow_provider_azstack.repo.repository import Repository

pytestmark = pytest.mark.tier2

MODES: tuple[Literal["before", "after", "torn"], ...] = ("before", "after", "torn")


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_crash_at_every_store_call_of_a_sync(site: Site) -> None:
    """The walker over sync: no partial point, and the next sync completes the copy."""
    counted = CrashingStore(other_repository().store)
    sync(site.repository, Repository.open(counted, OTHER))
    assert 10 < counted.calls < 40
    source = site.repository.store
    assert isinstance(source, MemoryStore)
    intact = dict(source.objects)
    for mode, at in itertools.product(MODES, range(counted.calls)):
        source.objects.clear()
        source.objects.update(intact)
        store = other_repository().store
        with pytest.raises(Crash):
            sync(site.repository, Repository.open(CrashingStore(store, at, mode), OTHER))
        copy = Repository.open(store, OTHER)
        visible = {(point.vm.key, point.id) for point in copy.points()}
        assert_repository_sound(copy, {key: site.expected[key] for key in visible})
        sync(site.repository, copy)
        assert_repository_sound(copy, site.expected)
    print(f"{3 * counted.calls} crash points of a sync")  # noqa: T201


@pytest.mark.parametrize("how", ["packs gone", "images damaged", "points damaged"])
def test_a_crash_at_every_store_call_of_a_repair(site: Site, how: str) -> None:
    """The walker over repair: what it died over, the next repair and a sync back make whole."""
    copy = other_repository()
    sync(site.repository, copy)
    damage(site.repository, how)
    store = site.repository.store
    assert isinstance(store, MemoryStore)
    damaged = dict(store.objects)
    counted = CrashingStore(store)
    repair(Repository.open(counted, PASSPHRASE), copy)
    assert 5 <= counted.calls <= 20
    for mode, at in itertools.product(MODES, range(counted.calls)):
        store.objects.clear()
        store.objects.update(damaged)
        with pytest.raises(Crash):
            repair(Repository.open(CrashingStore(store, at, mode), PASSPHRASE), copy)
        repair(reopen(site.repository), copy)
        sync(copy, reopen(site.repository))
        healed = reopen(site.repository)
        assert len(healed.points()) == len(site.expected)
        assert_repository_sound(healed, site.expected)
