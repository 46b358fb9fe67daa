"""Reports, told by the repository alone."""

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace
from support.disks import SparseDisk
from support.points import DAY_ONE, back_up_vm, vm_key
from support.repositories import new_repository, noise
from support.stores import MemoryStore

from airflow_provider_azstack.model import JobRecord, JobVm, Unprotected
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.reports import coverage, job_rows, usage_rows
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.verification import verify

pytestmark = pytest.mark.tier1
MIB = 2**20


class Site:
    """A VM and its clone, backed up on day 0; the VM again on days 1 and 2; now is day 3."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = DAY_ONE + timedelta(days=3)
        keys = new_repository(self.store).keys
        self.repository = Repository(self.store, keys, clock=self.clock)
        self.disk, self.clone = SparseDisk(4 * MIB), SparseDisk(4 * MIB)
        for disk in (self.disk, self.clone):
            disk.write(0, noise(1, 200_000))
        self.clone.write(2 * MIB, noise(2, 50_000))
        back_up_vm(self.repository, {"os": self.disk}, number=1)
        back_up_vm(self.repository, {"os": self.clone}, number=2, policy="weekly")
        for day in (1, 2):
            self.disk.freeze()
            self.disk.write(3 * MIB, noise(10 + day, 30_000))
            back_up_vm(self.repository, {"os": self.disk}, number=1, day=day)

    def clock(self) -> datetime:
        return self.now

    def put_job(self, *vms: JobVm, day: int, unprotected: tuple[Unprotected, ...] = ()) -> None:
        before = self.repository.jobs()[0]
        moment = DAY_ONE + timedelta(days=day)
        record = JobRecord(
            job=replace(before.job, run=f"run-{day}"),
            status="partial",
            started_at=moment,
            ended_at=moment + timedelta(minutes=5),
            vms=vms,
            unprotected=unprotected,
        )
        session = self.repository.open_session("backup")
        session.put_job(record)
        session.close()


@pytest.fixture
def site() -> Site:
    return Site()


def failed(number: int, reason: str = "no room") -> JobVm:
    return JobVm(key=vm_key(number), name=f"vm-{number}", host="a", status="failed", reason=reason)


def test_jobs_tell_how_they_went(site: Site) -> None:
    site.put_job(failed(1), day=3, unprotected=(Unprotected(id="x", name="x", reason="why"),))
    rows = job_rows(site.repository)
    assert [row.status for row in rows] == ["done"] * 4 + ["partial"]
    assert [row.policy for row in rows[:2]] == ["nightly", "weekly"]
    assert (rows[-1].vms, rows[-1].failed, rows[-1].unprotected) == (1, 1, 1)
    assert (rows[-1].seconds, rows[0].seconds) == (300, 600)
    assert rows[0].stored_bytes > 200_000
    assert rows[-1].hosts == ("a",)
    cut = JobVm(key=vm_key(1), name="v", host="b", more_hosts=("c",), status="done")
    site.put_job(failed(2), cut, day=4)
    rows = job_rows(site.repository)
    assert rows[-1].hosts == ("a", "b", "c")
    assert job_rows(site.repository, last=1) == rows[-1:]


def test_coverage_tells_the_newest_point_and_its_age(site: Site) -> None:
    first, second = coverage(site.repository)
    assert (first.vm, first.status, first.age_hours) == ("vm-1", "protected", 24.0)
    assert (second.vm, second.status, second.age_hours) == ("vm-2", "protected", 72.0)
    assert (second.policy, second.vm_key) == ("weekly", vm_key(2))


def test_coverage_tells_what_was_verified(site: Site) -> None:
    """The newest point of which all was read; a newer one is not, until it was read as well."""
    assert {row.verified_point for row in coverage(site.repository)} == {""}
    verify(site.repository, "full")
    rows = coverage(site.repository)
    assert [row.verified_point for row in rows] == [row.newest_point for row in rows]
    assert {row.read_since for row in rows} == {site.now}
    site.disk.freeze()
    site.disk.write(MIB, noise(77, 9000))
    site.now += timedelta(days=1)
    back_up_vm(site.repository, {"os": site.disk}, number=1, day=3)
    verify(site.repository, "structure")
    row = coverage(site.repository)[0]
    assert row.verified_point != row.newest_point
    assert (row.age_hours, row.verified_age_hours) == (24.0, 48.0)


def test_coverage_does_not_forget_a_vm_without_a_point(site: Site) -> None:
    """VMs that only jobs saw come first, with the reason; so do those that cannot be protected."""
    site.put_job(
        failed(1, "disk full"),
        failed(7, "no snapshot"),
        day=3,
        unprotected=(
            Unprotected(id="/subscriptions/s/VM-2", name="vm-2", reason="encrypted"),
            Unprotected(id="/subscriptions/s/vm-9", name="vm-9", reason="no disks"),
        ),
    )
    rows = {row.vm: row for row in coverage(site.repository)}
    assert {name: (row.status, row.reason) for name, row in rows.items()} == {
        "vm-7": ("missing", "no snapshot"),
        "vm-2": ("unprotected", "encrypted"),
        "vm-9": ("unprotected", "no disks"),
        "vm-1": ("failing", "disk full"),
    }
    assert list(rows) == ["vm-7", "vm-2", "vm-9", "vm-1"]
    assert rows["vm-7"].age_hours is None
    assert rows["vm-2"].newest_point
    site.put_job(JobVm(key=vm_key(1), name="vm-1", host="a", status="done", point="p"), day=4)
    rows = {row.vm: row for row in coverage(site.repository)}
    assert "vm-9" not in rows, "the newest job of the policy does not know it any more"
    assert rows["vm-1"].status == "protected"


def test_a_vm_whose_points_were_forgotten_is_over_until_a_job_sees_it_again(site: Site) -> None:
    """Forgotten on purpose: a point that only went is missed."""
    [point] = site.repository.points(vm_key(2))
    forget(site.repository, [(vm_key(2), point.id)], confirm=site.repository.id)
    assert [row.vm for row in coverage(site.repository)] == ["vm-1"]
    for gone in site.repository.points(vm_key(1)):
        site.store.delete(f"points/{vm_key(1)}/{gone.id}")
    assert [(row.vm, row.status) for row in coverage(site.repository)] == [("vm-1", "missing")]
    site.put_job(failed(2), day=3)
    assert [row.vm for row in coverage(site.repository)] == ["vm-1", "vm-2"]


def test_the_newest_job_has_the_last_word_whatever_runs_are_called(site: Site) -> None:
    """``run-10`` is listed before ``run-9``, and is the later one."""
    site.put_job(failed(1), day=9)
    site.put_job(JobVm(key=vm_key(1), name="vm-1", host="a", status="done", point="p"), day=10)
    assert {row.vm: row.status for row in coverage(site.repository)}["vm-1"] == "protected"
    assert [row.run for row in job_rows(site.repository, last=2)] == ["run-9", "run-10"]


def test_of_a_job_that_was_recorded_again_only_the_last_record_counts(site: Site) -> None:
    site.put_job(failed(1), day=9)
    site.put_job(JobVm(key=vm_key(1), name="vm-1", host="a", status="done", point="p"), day=9)
    assert [row.failed for row in job_rows(site.repository, last=1)] == [0]
    assert len(job_rows(site.repository)) == 5


def test_an_unreadable_point_does_not_hide_the_others(site: Site) -> None:
    name = next(name for name in sorted(site.store.objects) if name.startswith("points/"))
    site.store.objects[name] = site.store.objects[name][:-1]
    assert [row.age_hours for row in coverage(site.repository)] == [24.0, 72.0]


def test_usage_tells_what_is_shared(site: Site) -> None:
    """The clone's common block counts for both and belongs to neither."""
    one, two = usage_rows(site.repository, "vm")
    assert (one.name, one.points, two.name, two.points) == ("vm-1", 3, "vm-2", 1)
    assert one.needed_bytes == one.unique_bytes + one.shared_bytes
    assert one.shared_bytes == two.shared_bytes
    assert 200_000 < one.shared_bytes < 201_000
    assert 60_000 < one.unique_bytes < 64_000  # two days of changes, and groups of runs
    assert 50_000 < two.unique_bytes < 52_000
    everything = sum(len(data) for name, data in site.store.objects.items() if "packs/" in name)
    counted = one.unique_bytes + two.unique_bytes + one.shared_bytes
    assert counted <= everything < counted + 4 * 500  # headers and directories of four packs


def test_usage_by_policy_counts_each_block_once(site: Site) -> None:
    rows = {row.name: row for row in usage_rows(site.repository, "policy")}
    assert rows.keys() == {"nightly", "weekly"}
    back_up_vm(site.repository, {"os": site.clone}, number=3, day=2, policy="weekly")
    again = {row.name: row for row in usage_rows(site.repository, "policy")}
    assert again["weekly"].points == 2
    assert again["weekly"].needed_bytes == rows["weekly"].needed_bytes


def test_growth_leaves_out_where_it_began(site: Site) -> None:
    """Two incrementals of 30 kB in the three days since the first backup."""
    rows = {row.name: row for row in usage_rows(site.repository, "vm")}
    assert 20_000 < rows["vm-1"].growth_bytes_per_day < 22_000
    assert rows["vm-2"].growth_bytes_per_day == 0
    site.now += timedelta(days=100)
    rows = {row.name: row for row in usage_rows(site.repository, "vm")}
    assert rows["vm-1"].growth_bytes_per_day == 0


def test_an_empty_repository_has_empty_reports() -> None:
    repository = new_repository()
    assert job_rows(repository) == coverage(repository) == usage_rows(repository, "vm") == []
