"""When a collector refuses to delete anything, and what it may not delete."""

import contextlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from oracle import assert_repository_sound
from support.points import back_up_vm, vm_key
from support.pruning import (
    assert_nothing_went,
    fill,
    forget_all,
    names,
    names_that_come_and_go,
    objects,
    through,
    used,
    used_repository,
)
from support.repositories import reopen
from support.stores import ListingFault, LostWrites, StaleListing

from airflow_provider_azstack.errors import (
    AccessDenied,
    IncompatibleRepository,
    ObjectHeld,
    Refused,
    Unreachable,
)
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.packs import OWNER_BYTES
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.base import ObjectInfo
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1


def damage(kind: str) -> str:
    """Return the name of an object of that kind which a kept point needs."""
    repository = used().open()
    point = repository.points(vm_key(1))[-1]
    if kind == "points":
        return f"points/{point.vm.key}/{point.id}"
    if kind == "images":
        return point.images[0].image
    owner = bytes.fromhex(point.session)[:OWNER_BYTES]
    if kind == "packs":  # it holds the group of the newest image
        return next(
            name
            for name in used().objects
            if name.startswith("packs/") and name.endswith(owner.hex())
        )
    return next(
        info.name
        for info in repository.store.list("index/")
        if any(one.pack.endswith(owner) for one in segments.get(repository.records, info.name))
    )


@pytest.mark.parametrize("kind", ["points", "images", "packs", "index"])
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_root_that_cannot_be_read_stops_it(repository: Repository, kind: str, how: str) -> None:
    """C2: nothing is deleted when what a point needs is unknown."""
    prune(repository)  # a census is there
    name = damage(kind)
    content = objects(repository).pop(name)
    if how == "damaged":
        objects(repository)[name] = bytes(len(content))
    before = names(repository, "")
    with pytest.raises(Refused):
        prune(reopen(repository), dead_sessions=[used().dead])
    assert before - names(repository, "") <= names_that_come_and_go(before)


def test_a_store_error_stops_it(repository: Repository) -> None:
    before = names(repository, "")
    broken = through(repository, ListingFault(repository.store, None, 1))
    assert isinstance(broken.store, ListingFault)
    broken.store.fault = "second page"
    with pytest.raises(Unreachable):
        prune(broken, dry_run=True)
    assert_nothing_went(repository, before)


@pytest.mark.parametrize("fault", ["truncated", "empty"])
def test_points_that_are_not_listed_stop_it(repository: Repository, fault: str) -> None:
    """F-S11, F-S12: a listing that is short or empty, with a success, is not fewer points."""
    prune(repository, dead_sessions=[used().dead])
    fill(used_repository().disks[1], range(1), random.Random(1))

    class PointsOnly(ListingFault):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return super().list(prefix) if prefix == "points/" else self.inner.list(prefix)

    before = names(repository, "")
    with pytest.raises(Refused, match="restore points that were there are not listed"):
        prune(through(repository, PointsOnly(repository.store, fault, 1)))
    assert_nothing_went(repository, before)


@pytest.mark.parametrize("fault", ["truncated", "empty"])
def test_a_store_whose_every_listing_is_short_loses_nothing(
    repository: Repository, fault: str
) -> None:
    """F-S11, F-S12: whatever is refused or done, all points restore once the store is well."""
    for page in range(12):
        copy = used().open()
        forget_all(copy, used())
        prune(copy, dry_run=True)
        store = ListingFault(copy.store, None, page)
        lying = through(copy, store)
        store.fault = fault
        with contextlib.suppress(Refused):
            prune(lying, dead_sessions=[used().dead])
        assert_repository_sound(reopen(copy), used().expected)


def test_a_stale_listing_is_refused(repository: Repository) -> None:
    """F-S13: with the probe skipped, a store whose listings are behind loses nothing."""
    now = 0.0
    store = StaleListing(repository.store, lambda: now)
    before = names(repository, "")
    stale = through(repository, store)
    now = 100.0
    with pytest.raises(Refused, match="does not list"):
        prune(stale, dead_sessions=[used().dead])
    assert_nothing_went(repository, before)


def test_a_condemned_list_that_was_acknowledged_and_lost_stops_it(repository: Repository) -> None:
    """F-S15: writers would count on packs that go, because no list tells them."""
    lossy = LostWrites(repository.store, lambda name: name.startswith("condemned/"))
    before = names(repository, "")
    with pytest.raises(Refused, match="does not list"):
        prune(through(repository, lossy), dead_sessions=[used().dead])
    assert_nothing_went(repository, before)


def test_an_emptied_repository_needs_its_id(repository: Repository) -> None:
    """F-H11: prune with no points."""
    forget(repository, list(used().expected), confirm=repository.id)
    for confirm in ("", "yes"):
        with pytest.raises(Refused, match=repository.id):
            prune(repository, confirm=confirm)
        with pytest.raises(Refused, match=repository.id):
            prune(repository, confirm=confirm, dry_run=True)
    assert len(names(repository, "packs/")) == 6
    prune(repository, confirm=repository.id, dead_sessions=[used().dead])
    assert not names(repository, "packs/")
    assert not names(repository, "index/")
    assert prune(repository).rows == ()


def test_credentials_that_cannot_delete_cannot_prune(repository: Repository) -> None:
    """F-S18: one error, nothing lost, and the next backup is not hindered."""
    before = names(repository, "")
    with pytest.raises(AccessDenied):
        prune(through(repository, AppendOnlyStore(repository.store)), dead_sessions=[used().dead])
    assert_nothing_went(repository, before)
    disk = used().disks[3]
    back_up_vm(repository, {"os": disk}, number=3, day=9)
    prune(repository)
    assert_repository_sound(repository, used().expected)


def test_objects_that_the_store_holds_are_told_and_go_later(repository: Repository) -> None:
    """F-S19: refused until a date: told, tried once by each prune, deleted when it has passed."""
    until = datetime(2027, 1, 2, tzinfo=UTC)
    asked: list[str] = []

    class Locked(StoreWrapper):
        is_locked = True

        def delete(self, name: str) -> None:
            if self.is_locked and name.startswith(("packs/", "images/")):
                asked.append(name)
                raise ObjectHeld(f"{name} is locked", until)
            super().delete(name)

    store = Locked(repository.store)
    locked = through(repository, store)
    first = prune(locked, dead_sessions=[used().dead])
    assert len(first.of("held")) == len(asked) == len(set(asked)) == 6
    assert all("held until 2027-01-02" in row.because for row in first.of("held"))
    again = prune(locked)
    assert (len(again.of("held")), len(asked)) == (6, 12)
    assert not again.of("condemn", "repack")
    assert_repository_sound(repository, used().expected)
    store.is_locked = False
    assert len(prune(locked).of("delete")) == 6
    assert prune(locked).rows == ()
    assert_repository_sound(repository, used().expected)


def test_records_that_a_lock_holds_longer_than_packs_fail_nothing(repository: Repository) -> None:
    """F-S19: they are younger than what they condemn, and go when they can."""

    class Locked(StoreWrapper):
        is_locked = True

        def delete(self, name: str) -> None:
            if self.is_locked and name.startswith(("condemned/", "census/", "index/")):
                raise ObjectHeld(f"{name} is locked")
            super().delete(name)

    store = Locked(repository.store)
    locked = through(repository, store)
    packs = names(repository, "packs/")
    assert prune(locked, dead_sessions=[used().dead]).of("delete")
    assert len(names(repository, "packs/")) < len(packs)
    prune(locked)
    assert names(repository, "condemned/")
    assert_repository_sound(repository, used().expected)
    store.is_locked = False
    prune(locked)
    assert not names(repository, "condemned/")
    assert prune(locked).rows == ()
    assert_repository_sound(repository, used().expected)


def test_a_record_of_a_newer_version_stops_it(repository: Repository) -> None:
    repository.records.put_bytes("condemned/new/packs", b'{"packs": [], "because": "new"}')
    before = names(repository, "")
    with pytest.raises(IncompatibleRepository):
        prune(repository, dead_sessions=[used().dead])
    assert_nothing_went(repository, before)
