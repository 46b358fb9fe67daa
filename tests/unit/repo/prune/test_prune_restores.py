"""When the records of restores go, and in which order."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from support.damage import flipped
from support.repositories import MOMENT, PASSPHRASE, VM_KEY
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import AccessDenied, ObjectHeld
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.prune.report import Report
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import KEPT, Noted, Try, plan_name
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Store
from airflow_provider_azstack.store.guard import AppendOnlyStore, ReadOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1

PLAN = "0123456789abcdef"
DISK = f"restores/{PLAN}/{VM_KEY}.os/aaaabbbbccccdddd"
LATER = KEPT + timedelta(seconds=1)


class Clock:
    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> datetime:
        return self.now


class Site(NamedTuple):
    """A repository, and what time it is."""

    repository: Repository
    clock: Clock

    def through(self, store: Store) -> Repository:
        return Repository.open(store, PASSPHRASE, clock=self.clock)

    def names(self, prefix: str = "restores/") -> set[str]:
        return {info.name for info in self.repository.store.list(prefix)}

    def prune(self, **more: object) -> Report:
        return prune(self.repository, **more)  # type: ignore[arg-type]

    def begin(self, run: str, plan: str = PLAN) -> tuple[Session, Try]:
        """Open a session for a try, and note the plan."""
        session = self.repository.open_session("restore", run=run)
        one = Try(run, session.id)
        self.note(plan_name(plan, one))
        return session, one

    def note(self, *names: str) -> None:
        for name in names:
            self.repository.records.put(name, Noted(at=self.clock()))


@pytest.fixture
def site() -> Site:
    clock = Clock()
    return Site(Repository.create(MemoryStore(), PASSPHRASE, kdf=Cost(2), clock=clock)[0], clock)


def restored(site: Site, run: str = "run", plan: str = PLAN) -> Try:
    """Leave what a restore leaves that replaced a disk, and that was settled."""
    session, one = site.begin(run, plan)
    restores.begin(session, plan, VM_KEY, "os")
    disk = DISK.replace(PLAN, plan)
    replaced = f"restores/{plan}/{VM_KEY}.replace"
    site.note(f"{disk}/part-000000-000001", f"{disk}/footer", f"{disk}/complete", f"{disk}/used")
    site.note(*(f"{replaced}/{what}/000001" for what in ("stopped", "safety-os", "ended")))
    session.close()
    restores.settle(site.repository, plan, [one])
    return one


def test_records_go_when_they_are_old_enough(site: Site) -> None:
    """Counted from when nothing was left to clean up; a dry run says it, and writes nothing."""
    restored(site)
    everything = site.names()
    assert len(everything) == 10
    site.clock.now += KEPT - timedelta(seconds=1)
    assert site.prune().rows == ()
    site.clock.now += timedelta(seconds=2)
    reader = site.through(ReadOnlyStore(site.repository.store))
    told = prune(reader, dry_run=True)
    assert {row.name for row in told.of("condemn")} == everything
    assert all("more than 90 days ago" in row.because for row in told.rows)
    assert site.names() == everything
    assert {row.name for row in site.prune().of("delete")} == everything
    assert site.names() == set()
    assert site.prune().rows == ()


def unsettled(site: Site) -> None:
    site.begin("run")[0].close()


def settled_late(site: Site) -> None:
    session, one = site.begin("run")
    session.close()
    restores.settle(site.repository, PLAN, [one])


def alive(site: Site) -> None:
    site.repository.open_session("restore", run="run")


def nameless(site: Site) -> None:
    site.repository.store.put("sessions/" + "ab" * 16, b"not ours to read")


def damaged(site: Site) -> None:
    (name,) = site.names(f"restores/{PLAN}/settled/")
    store = site.repository.store
    assert isinstance(store, MemoryStore)
    store.objects[name] = flipped(store.objects[name], -1)


@pytest.mark.parametrize("why", [unsettled, settled_late, alive, nameless, damaged])
def test_records_stay_while_something_may_need_them(
    site: Site, why: Callable[[Site], None]
) -> None:
    """A later try of the same run that is not settled, or not for long; a living one; doubt."""
    restored(site)
    restored(site, "other", "f" * 16)
    site.clock.now += LATER
    why(site)
    before = site.names(f"restores/{PLAN}/")
    condemned = {restores.plan_of(row.name) for row in site.prune().of("condemn")}
    assert condemned == (set() if why is nameless else {"f" * 16})
    assert site.names(f"restores/{PLAN}/") == before


def test_a_restore_that_is_taken_up_again_keeps_its_records(site: Site) -> None:
    """Between being condemned and being deleted: it is looked at once more."""
    restored(site)
    site.clock.now += LATER
    waited_for = site.repository.open_session("backup", run="nightly")
    assert site.prune().of("wait")
    session, one = site.begin("again")
    waited_for.close()
    session.close()
    before = site.names()
    assert not site.prune().of("delete")
    assert site.names() == before
    assert not site.names("condemned/")
    restores.settle(site.repository, PLAN, [one])
    site.clock.now += LATER
    site.prune()
    assert site.names() == set()


def groups(names: set[str]) -> Iterator[tuple[bool, bool]]:
    """Yield for each two kinds, of which one goes first, whether that and the other are there."""

    def there(what: str) -> bool:
        return any(what in name for name in names)

    for first, then in (
        ("/begun/", "/complete"), ("/begun/", "/used"), ("/plan/", "/settled/"),
        ("/stopped/", "/ended/"),
    ):  # fmt: skip
        yield there(first), there(then)


@pytest.mark.parametrize("mode", ["before", "after"])
def test_death_at_any_call_leaves_no_disk_that_looks_half_written(mode: str) -> None:
    """F-C3: what says that a disk was begun goes before what says that it is complete."""
    at, is_dead = 0, True
    while is_dead:
        clock = Clock()
        site = Site(
            Repository.create(MemoryStore(), PASSPHRASE, kdf=Cost(2), clock=clock)[0], clock
        )
        restored(site)
        clock.now += LATER
        mortal = CrashingStore(site.repository.store, at, mode)  # type: ignore[arg-type]
        is_dead = False
        try:
            prune(site.through(mortal), threads=1)
        except Crash:
            is_dead = True
        for first, then in groups(site.names()):
            assert then or not first, (at, site.names())
        living = set(site.repository.sessions())
        site.prune(dead_sessions=living)
        assert site.names() == set(), at
        at += 1
    assert at > 10


def test_records_that_the_store_holds_hold_those_that_go_after_them(site: Site) -> None:
    """F-S19: as other objects they are told, and go when they can."""
    restored(site)
    site.clock.now += LATER

    class Locked(StoreWrapper):
        held = "/begun/"

        def delete(self, name: str) -> None:
            if self.held and self.held in name:
                raise ObjectHeld(f"{name} is locked", datetime(2027, 1, 2, tzinfo=UTC))
            super().delete(name)

    store = Locked(site.repository.store)
    locked = site.through(store)
    report = prune(locked)
    assert {row.name for row in report.of("held")} == site.names()
    assert any("held until 2027-01-02" in row.because for row in report.rows)
    assert all(then for first, then in groups(site.names()) if first)
    assert f"{DISK}/complete" in site.names()
    store.held = ""
    prune(locked)
    assert site.names() == set()


def test_credentials_that_cannot_delete_lose_no_record(site: Site) -> None:
    """F-S18: the prune fails as with any other object; the next one that may goes on."""
    restored(site)
    site.clock.now += LATER
    before = site.names()
    with pytest.raises(AccessDenied):
        prune(site.through(AppendOnlyStore(site.repository.store)))
    assert site.names() == before
    site.prune(dead_sessions=set(site.repository.sessions()))
    assert site.names() == set()
