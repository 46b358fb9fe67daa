"""Forgetting, legal holds, and the census that tells forgotten points from lost ones."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
from msgspec.structs import replace
from support.repositories import MOMENT, VM_KEY, back_up, new_repository, noise, reopen
from support.stores import Crash, CrashingStore, FullStore, ListingFault, MemoryStore

from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    ObjectHeld,
    ObjectNotFound,
    Refused,
    SessionLost,
    StoreFull,
    Tampered,
    Unreachable,
)
from airflow_provider_azstack.model import Retention
from airflow_provider_azstack.repo import room
from airflow_provider_azstack.repo.points import census, holds
from airflow_provider_azstack.repo.points.forget import forget, forget_by_rule, plan
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.base import Buffer, ObjectInfo
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1

RUNS = ("run-1", "run-2", "run-3")


@pytest.fixture
def repository() -> Repository:
    """Three points of one VM, all of the same moment: then the id decides which is newer."""
    repository = new_repository()
    for number, run in enumerate(RUNS):
        back_up(repository, [noise(number)], run)
    return repository


def ids(repository: Repository) -> list[str]:
    return [point.id for point in repository.points()]


def test_a_chosen_point_is_forgotten(repository: Repository) -> None:
    gone = forget(repository, [(VM_KEY, "p-run-1")])
    assert gone.points == ((VM_KEY, "p-run-1"),)
    assert ids(repository) == ["p-run-2", "p-run-3"]
    assert census.forgotten(repository) == {f"{VM_KEY}/p-run-1"}


def test_a_rule_forgets_what_it_does_not_keep(repository: Repository) -> None:
    rule = Retention(keep_last=2)
    decisions, gone = forget_by_rule(repository, rule, dry_run=True)
    assert [decision.is_kept for decision in decisions] == [False, True, True]
    assert (gone.points, len(ids(repository))) == ((), 3)
    forget_by_rule(repository, rule)
    assert ids(repository) == ["p-run-2", "p-run-3"]


def test_a_rule_is_for_the_points_of_its_policy_and_vms(repository: Repository) -> None:
    rule = Retention(keep_last=1)
    assert plan(repository, rule, policy="another") == []
    assert plan(repository, rule, vm_keys=()) == []
    assert len(plan(repository, rule, policy="nightly", vm_keys=[VM_KEY])) == 3


def test_a_flagged_point_pushes_none_out(repository: Repository) -> None:
    repository.store.put(f"flags/{VM_KEY}/p-run-3", b"whatever it says")
    decisions = plan(repository, Retention(keep_last=1))
    kept = {decision.point.id: decision.reasons for decision in decisions if decision.is_kept}
    assert kept.keys() == {"p-run-2", "p-run-3"}
    assert kept["p-run-3"] == ("newest good point (suspicious)", "last 1 (suspicious)")


def test_forgetting_everything_needs_the_repository_id(repository: Repository) -> None:
    """F-H11: forget everything of a VM, and a rule of zeros."""
    chosen = [(VM_KEY, f"p-{run}") for run in RUNS]
    for confirm in ("", "yes", VM_KEY):
        with pytest.raises(Refused, match=repository.id):
            forget(repository, chosen, confirm=confirm)
        with pytest.raises(Refused, match=repository.id):
            forget_by_rule(repository, Retention(keep_last=0), confirm=confirm)
    assert len(ids(repository)) == 3
    forget_by_rule(repository, Retention(keep_last=0), confirm=repository.id)
    assert ids(repository) == ["p-run-3"], "the newest good point stays all the same"
    forget(repository, chosen, confirm=repository.id)
    assert ids(repository) == []


def test_a_point_that_never_was_is_not_forgotten(repository: Repository) -> None:
    with pytest.raises(ConfigurationError, match="p-none"):
        forget(repository, [(VM_KEY, "p-run-1"), (VM_KEY, "p-none")])
    assert len(ids(repository)) == 3


def test_an_unreadable_point_stops_a_rule_and_can_be_forgotten_by_name(
    repository: Repository,
) -> None:
    store = repository.store
    assert isinstance(store, MemoryStore)
    store.objects[f"points/{VM_KEY}/p-run-1"] = b"damaged"
    with pytest.raises(Tampered, match="p-run-1"):
        forget_by_rule(repository, Retention(keep_last=1))
    forget(repository, [(VM_KEY, "p-run-1")])
    assert ids(repository) == ["p-run-2", "p-run-3"]


def test_a_held_point_is_kept_by_every_rule_and_not_forgotten(repository: Repository) -> None:
    holds.add_hold(repository, VM_KEY, "p-run-1", "case 4711")
    holds.add_hold(repository, VM_KEY, "p-run-1")
    with pytest.raises(Refused, match="legal hold"):
        forget(repository, [(VM_KEY, "p-run-2"), (VM_KEY, "p-run-1")])
    forget_by_rule(repository, Retention(keep_last=1))
    assert ids(repository) == ["p-run-1", "p-run-3"]
    [held] = holds.list_holds(repository)
    assert (held.vm_key, held.point_id, held.reason) == (VM_KEY, "p-run-1", "case 4711")
    assert held.since is not None
    holds.remove_hold(repository, VM_KEY, "p-run-1")
    with pytest.raises(ObjectNotFound):
        holds.remove_hold(repository, VM_KEY, "p-run-1")
    forget(repository, [(VM_KEY, "p-run-1")])
    assert ids(repository) == ["p-run-3"]


def test_a_damaged_hold_still_holds(repository: Repository) -> None:
    repository.store.put(f"holds/{VM_KEY}/p-run-1", b"damaged")
    assert "unreadable" in holds.list_holds(repository)[0].reason
    with pytest.raises(Refused, match="legal hold"):
        forget(repository, [(VM_KEY, "p-run-1")])


def test_a_point_that_is_not_there_cannot_be_held(repository: Repository) -> None:
    with pytest.raises(ObjectNotFound):
        holds.add_hold(repository, VM_KEY, "p-none")
    assert holds.held_points(repository) == frozenset()


def test_a_point_that_is_held_while_it_is_being_forgotten(repository: Repository) -> None:
    """F-K12: the hold comes after holds were looked at; the point stays, or the holder is told."""
    outcomes = []

    class Meanwhile(StoreWrapper):
        """Somebody else holds the point as soon as it is noted that it goes."""

        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            super().put(name, data)
            if name.startswith("forgotten/") and not outcomes:
                with pytest.raises(Refused, match="the hold stands"):
                    holds.add_hold(repository, VM_KEY, "p-run-1", "court")
                outcomes.append("told")

    racing = reopen(repository, Meanwhile(repository.store))
    gone = forget(racing, [(VM_KEY, "p-run-1"), (VM_KEY, "p-run-2")])
    assert outcomes == ["told"]
    assert gone.points == ((VM_KEY, "p-run-2"),)
    assert "legal hold" in gone.held[VM_KEY, "p-run-1"]
    assert ids(repository) == ["p-run-1", "p-run-3"]
    # It is not among those that nobody misses, and whoever holds it now need not fear.
    assert census.forgotten(repository) == {f"{VM_KEY}/p-run-2"}
    holds.add_hold(repository, VM_KEY, "p-run-1")


def test_credentials_that_cannot_delete_cannot_forget(repository: Repository) -> None:
    """F-S18: forgetting fails with one error, and the points are all there."""
    with pytest.raises(AccessDenied, match="append-only"):
        forget(reopen(repository, AppendOnlyStore(repository.store)), [(VM_KEY, "p-run-1")])
    assert len(ids(repository)) == 3


def test_a_point_that_the_store_holds_is_told_and_the_others_go(repository: Repository) -> None:
    """F-S19: an object lock on one point is no error for the other."""

    class Locked(StoreWrapper):
        def delete(self, name: str) -> None:
            if name.endswith("p-run-1"):
                raise ObjectHeld(f"{name} is locked", MOMENT + timedelta(days=9))
            super().delete(name)

    locked = reopen(repository, Locked(repository.store))
    gone = forget(locked, [(VM_KEY, "p-run-1"), (VM_KEY, "p-run-2")])
    assert gone.held.keys() == {(VM_KEY, "p-run-1")}
    assert ids(repository) == ["p-run-1", "p-run-3"]


def test_where_a_lock_holds_everything_points_are_told_as_held(repository: Repository) -> None:
    """F-S19: what is only said again elsewhere may stay."""

    class Locked(StoreWrapper):
        def delete(self, name: str) -> None:
            raise ObjectHeld(f"{name} is locked")

    locked = reopen(repository, Locked(repository.store))
    gone = forget(locked, [(VM_KEY, "p-run-1"), (VM_KEY, "p-run-2")])
    assert (gone.points, len(gone.held)) == ((), 2)
    for points in (["a/1"], ["a/1", "a/2"]):
        census.put_census(locked, points)
    assert len(list(repository.store.list("census/"))) == 2
    census.put_census(repository, ["a/1", "a/2"])
    assert len(list(repository.store.list("census/"))) == 1


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_crash_at_any_call_leaves_points_that_can_be_forgotten_again(mode: str) -> None:
    """F-C3, the half that forgets: each point is there or noted as forgotten."""
    for at in range(3):
        repository = new_repository()
        for number, run in enumerate(RUNS):
            back_up(repository, [noise(number)], run)
        census.put_census(repository, census.listed_points(repository))
        chosen = [(VM_KEY, "p-run-1"), (VM_KEY, "p-run-2")]
        crashing = CrashingStore(repository.store, at, mode)  # type: ignore[arg-type]
        with pytest.raises(Crash):
            forget(reopen(repository, crashing), chosen)
        census.listed_points(repository)
        forget(repository, chosen)
        assert ids(repository) == ["p-run-3"]


def test_the_census_finds_a_listing_that_is_short(repository: Repository) -> None:
    """F-S12: fewer points than were recorded, and not because they were forgotten."""
    census.put_census(repository, census.listed_points(repository))
    forget(repository, [(VM_KEY, "p-run-1")])
    assert len(census.listed_points(repository)) == 2

    class Short(StoreWrapper):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return iter([]) if prefix.startswith("points/") else super().list(prefix)

    with pytest.raises(Refused, match="2 restore points that were there are not listed"):
        census.listed_points(reopen(repository, Short(repository.store)))


def test_points_that_somebody_deleted_are_missed_until_they_are_forgotten(
    repository: Repository,
) -> None:
    census.put_census(repository, census.listed_points(repository))
    repository.store.delete(f"points/{VM_KEY}/p-run-1")
    with pytest.raises(Refused, match="p-run-1"):
        census.listed_points(repository)
    forget(repository, [(VM_KEY, "p-run-1")])
    assert len(census.listed_points(repository)) == 2


def test_one_census_replaces_the_others_and_notes_are_gathered(repository: Repository) -> None:
    census.put_census(repository, ["a/1", "a/2"])
    census.put_census(repository, ["a/2"])
    census.put_census(repository, ["a/2"])
    assert len(list(repository.store.list("census/"))) == 1
    assert census.recorded(repository) == {"a/2"}
    for number in range(20):
        census.put_forgotten(repository, [f"a/{number}"])
    census.gather_forgotten(repository)
    assert len(list(repository.store.list("forgotten/"))) == 1
    assert len(census.forgotten(repository)) == 20


def test_notes_that_are_gathered_while_they_are_read_are_seen(repository: Repository) -> None:
    """F-K12: whoever holds a point sees that it goes, though that note was gathered just now."""
    for number in range(20):
        census.put_forgotten(repository, [f"a/{number}"])
    census.put_forgotten(repository, [f"{VM_KEY}/p-run-1"])

    class Gathered(StoreWrapper):
        """A collector gathers all notes just after they were listed."""

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            listed = [*super().list(prefix)]
            if prefix == "forgotten/":
                census.gather_forgotten(repository)
            return iter(listed)

    reading = reopen(repository, Gathered(repository.store))
    with pytest.raises(Refused, match="the hold stands"):
        holds.add_hold(reading, VM_KEY, "p-run-1")


def test_a_census_that_is_replaced_while_it_is_read_is_seen(repository: Repository) -> None:
    """F-S12: or a listing that is short would be believed beside another collector."""
    census.put_census(repository, ["a/1"])

    class Replaced(StoreWrapper):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            listed = [*super().list(prefix)]
            if prefix == "census/":
                census.put_census(repository, ["a/1", "a/2"])
            return iter(listed)

    assert census.recorded(reopen(repository, Replaced(repository.store))) == {"a/1", "a/2"}


def test_a_listing_that_names_what_is_gone_is_not_asked_for_ever(repository: Repository) -> None:
    """Such a store is not as it must be; what is there is read."""
    census.put_forgotten(repository, ["a/1"])
    [gone] = repository.store.list("forgotten/")

    class Behind(StoreWrapper):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return iter([gone, *super().list(prefix)])

    behind = reopen(repository, Behind(repository.store))
    repository.store.delete(gone.name)
    census.put_forgotten(repository, ["a/2"])
    assert census.forgotten(behind) == {"a/2"}


def test_notes_and_censuses_have_bounds(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was forgotten in years is in several objects, each of which a record can hold."""
    monkeypatch.setattr(census, "_POINTS_OF_ONE", 8)
    points = [f"a/{number}" for number in range(20)]
    for point in points:
        census.put_forgotten(repository, [point])
    census.gather_forgotten(repository)
    assert len(list(repository.store.list("forgotten/"))) == 3
    assert census.forgotten(repository) == set(points)
    for listed, objects in ((points, 3), (points[1:], 3), (points[:2], 1), ([], 1)):
        for _ in range(2):
            census.put_census(repository, listed)
            assert census.recorded(repository) == set(listed)
            assert len(list(repository.store.list("census/"))) == objects


def test_what_is_recalled_is_missed_and_nothing_else(repository: Repository) -> None:
    """A point that came back is like any other; a note that comes later stands."""
    for points in (["a/1", "a/2"], ["a/2"], ["a/3"]):
        census.put_forgotten(repository, points)
    census.put_forgotten(repository, ["a/2", "a/4"], is_withdrawn=True)
    census.recall(repository, {"a/2"})
    assert census.noted(repository) == ({"a/1", "a/3"}, {"a/4"})
    census.put_forgotten(repository, ["a/2"])
    assert census.noted(repository) == ({"a/1", "a/2", "a/3"}, {"a/4"})


def test_a_hold_that_came_just_now_can_be_looked_for_after_notes_were_gathered(
    repository: Repository,
) -> None:
    """F-K12: whoever forgets takes his note back, in whichever object that is by now."""
    for number in range(20):
        census.put_forgotten(repository, [f"a/{number}"])

    class Meanwhile(StoreWrapper):
        """A collector gathers the note, and somebody holds the point."""

        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            super().put(name, data)
            if name.startswith("forgotten/") and not holds.held_points(repository):
                census.gather_forgotten(repository)
                repository.store.put(f"holds/{VM_KEY}/p-run-1", b"held")

    gone = forget(reopen(repository, Meanwhile(repository.store)), [(VM_KEY, "p-run-1")])
    assert gone.held.keys() == {(VM_KEY, "p-run-1")}
    assert f"{VM_KEY}/p-run-1" not in census.forgotten(repository)
    assert len(census.forgotten(repository)) == 20


def test_a_withdrawn_point_is_not_missed(repository: Repository) -> None:
    """A collector may see a fenced run's point before that run takes it back."""

    class Seen(StoreWrapper):
        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            super().put(name, data)
            if name.startswith("points/"):
                census.put_census(repository, census.listed_points(repository))
                repository.fence(point.session)

    [point] = [point for point in repository.points() if point.run == "run-3"]
    watched = reopen(repository, Seen(repository.store))
    session = watched.open_session("backup")
    point = replace(point, id="p-fenced", session=session.id)
    with pytest.raises(SessionLost, match="withdrawn"):
        session.publish(point)
    assert len(census.listed_points(repository)) == 3


def test_forgetting_works_on_a_full_disk_once_there_is_a_reserve(repository: Repository) -> None:
    """F-S1, the half that makes room: the reserve is given up for the note."""
    full = FullStore(repository.store, 0)
    with pytest.raises(StoreFull):
        forget(reopen(repository, full), [(VM_KEY, "p-run-1")])
    room.keep_reserve(reopen(repository, full))
    assert not list(repository.store.list("reserve/")), "no room for a reserve is no error"
    room.keep_reserve(repository)
    room.keep_reserve(repository)
    [reserve] = repository.store.list("reserve/")

    class GivesBack(FullStore):
        def delete(self, name: str) -> None:
            self.room_bytes += self.inner.info(name).size_bytes
            super().delete(name)

    forget(reopen(repository, GivesBack(repository.store, 0)), [(VM_KEY, "p-run-1")])
    assert ids(repository) == ["p-run-2", "p-run-3"]
    assert not repository.store.exists(reserve.name)


def test_a_listing_that_breaks_forgets_nothing(repository: Repository) -> None:
    """F-S11: an error, and every point is there."""
    broken = reopen(repository)
    broken.store = ListingFault(repository.store, "second page", 1)
    with pytest.raises(Unreachable):
        forget(broken, [(VM_KEY, "p-run-1")])
    assert len(ids(repository)) == 3
