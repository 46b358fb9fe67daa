"""Signals of ransomware: what is flagged, what is not, and that nothing else follows from it."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random

import pytest
from msgspec.structs import replace
from support.disks import SparseDisk
from support.points import DAY_ONE, back_up_vm
from support.repositories import new_repository
from support.stores import MemoryStore

from airflow_provider_azstack.engine.backup import signals
from airflow_provider_azstack.engine.backup.signals import check, suspicions
from airflow_provider_azstack.model import ChangesKnown, RestorePoint, Retention
from airflow_provider_azstack.repo.points import flags
from airflow_provider_azstack.repo.points.forget import forget_by_rule
from airflow_provider_azstack.repo.reports import coverage
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.guard import StoreWrapper

pytestmark = pytest.mark.tier1
MIB, GIB = 2**20, 2**30


@pytest.fixture(scope="module")
def template() -> RestorePoint:
    disk = SparseDisk(MIB)
    disk.write(0, b"a")
    return back_up_vm(new_repository(), {"os": disk})


def day(
    template: RestorePoint,
    number: int,
    changed: int,
    ratio: float = 0.4,
    known: ChangesKnown = "difference",
) -> RestorePoint:
    """A point of a 100 GiB disk of which so much changed, stored with such a ratio."""
    [image] = template.images
    taken_at = DAY_ONE + timedelta(days=number)
    image = replace(
        image,
        size_bytes=100 * GIB,
        changed_bytes=changed,
        stored_bytes=round(changed * ratio),
        changes_known=known,
    )
    return replace(
        template,
        id=f"{taken_at:%Y%m%dt%H%M%S}-x",
        taken_at=taken_at,
        images=(image,),
        previous="one" if number else "",
    )


def history(template: RestorePoint, changes: Sequence[int]) -> list[RestorePoint]:
    first = day(template, 0, 40 * GIB, 0.5, "allocated")
    return [first, *(day(template, n, size) for n, size in enumerate(changes, 1))]


def usual(seed: int = 1, days: int = 20) -> list[int]:
    """Days as they are: around 800 MiB, long-tailed, a patch now and then."""
    rng = Random(seed)
    sizes = [round(800 * MIB * rng.lognormvariate(0, 0.5)) for _ in range(days)]
    sizes[days // 2] = 6 * GIB
    return sizes


def test_a_disk_that_is_encrypted_is_suspicious_for_both_reasons(template: RestorePoint) -> None:
    before = history(template, usual())
    changed, ratio = suspicions(day(template, 30, 60 * GIB, 1.01), before)
    assert changed.startswith("os: 64.4 GB changed")
    assert "does not compress" in ratio


@pytest.mark.parametrize("seed", range(20))
def test_usual_days_are_not_suspicious(template: RestorePoint, seed: int) -> None:
    """Neither the days themselves, nor a patch of several times as much."""
    sizes = usual(seed, 30)
    for count in range(signals.MIN_HISTORY, 30):
        before = history(template, sizes[:count])
        assert suspicions(day(template, 40, sizes[count]), before) == ()
    assert suspicions(day(template, 40, 8 * GIB, 0.6), history(template, sizes)) == ()


def test_slow_encryption_shows_in_what_does_not_compress(template: RestorePoint) -> None:
    [reason] = suspicions(day(template, 30, 2 * GIB, 1.0), history(template, usual()))
    assert "does not compress" in reason


def test_a_disk_that_never_compresses_is_not_suspicious_for_that(template: RestorePoint) -> None:
    """Videos, archives, databases that encrypt themselves."""
    before = [day(template, n, size, 0.97) for n, size in enumerate(usual(), 1)]
    assert suspicions(day(template, 30, 2 * GIB, 1.0), before) == ()


def test_with_little_history_nothing_is_known(template: RestorePoint) -> None:
    """The first backup, which moves everything, is not history."""
    before = history(template, usual()[: signals.MIN_HISTORY - 1])
    assert suspicions(day(template, 30, 90 * GIB, 1.0), before) == ()


def test_small_changes_are_never_suspicious(template: RestorePoint) -> None:
    """A disk on which nothing happens jumps by any factor when something does."""
    before = history(template, [4096] * 20)
    assert suspicions(day(template, 30, GIB - 1, 1.0), before) == ()
    assert suspicions(day(template, 30, 2 * GIB, 0.5), before)


def test_another_disk_of_that_key_has_no_history(template: RestorePoint) -> None:
    point = day(template, 30, 60 * GIB, 1.0)
    [image] = point.images
    swapped = replace(image, snapshot=replace(image.snapshot, unique_id="another"))
    assert suspicions(replace(point, images=(swapped,)), history(template, usual())) == ()


def test_when_changes_were_not_known_what_was_new_counts(template: RestorePoint) -> None:
    """Reading everything is not a change of everything; storing everything again is."""
    before = history(template, usual())
    assert suspicions(day(template, 30, 80 * GIB, 0.01, "everything"), before) == ()
    assert suspicions(day(template, 30, 80 * GIB, 1.0, "everything"), before)


def put(repository: Repository, points: Sequence[RestorePoint]) -> None:
    for point in points:
        repository.records.put(f"points/{point.vm.key}/{point.id}", point)


def test_a_suspicious_point_is_flagged_and_costs_no_other(template: RestorePoint) -> None:
    """Retention keeps it in addition, and older ones as if it were not there; coverage tells."""
    repository = new_repository()
    attack = day(template, 30, 60 * GIB, 1.0)
    put(repository, [*history(template, usual()), attack])
    assert len(check(repository, attack)) == 2
    assert check(repository, attack), "again, as a retry does"
    assert flags.flagged(repository) == {(attack.vm.key, attack.id)}
    assert len(flags.reasons(repository, attack.vm.key, attack.id)) == 2
    [row] = coverage(repository)
    assert row.suspicious == 1
    decisions, _ = forget_by_rule(repository, Retention(keep_last=2), dry_run=True)
    kept = [decision.point.id for decision in decisions if decision.is_kept]
    good = [point.id for point in repository.points()][-3:-1]
    assert set(kept) == {attack.id, *good}


def test_an_attack_does_not_become_what_is_normal(template: RestorePoint) -> None:
    """Weeks of it: every day is flagged, until somebody says that this is how it should be."""
    repository = new_repository()
    put(repository, history(template, usual()))
    for number in range(30, 60):
        point = day(template, number, 50 * GIB, 1.0)
        put(repository, [point])
        assert check(repository, point)
    for vm_key, name in flags.flagged(repository):
        flags.remove_flag(repository, vm_key, name)
    point = day(template, 60, 50 * GIB, 1.0)
    put(repository, [point])
    assert check(repository, point) == ()


class Failing(StoreWrapper):
    """A store without a listing of flags."""

    def list(self, prefix: str):  # noqa: ANN201 - as the store's
        from airflow_provider_azstack.errors import Unreachable

        if prefix == flags.PREFIX:
            raise Unreachable("no answer")
        return super().list(prefix)


def test_a_question_that_fails_fails_no_backup(template: RestorePoint) -> None:
    repository = new_repository(MemoryStore())
    point = day(template, 30, 60 * GIB, 1.0)
    put(repository, [*history(template, usual()), point])
    failing = Repository(Failing(repository.store), repository.keys)
    assert check(failing, point) == ()
    assert check(repository, point)


def test_a_quiet_day_costs_no_request(template: RestorePoint) -> None:
    """Which is nearly every day of nearly every VM."""
    assert check(Repository(Failing(MemoryStore()), new_repository().keys), template) == ()
