"""What the pictures are drawn from: what the records say, and no more than that."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.history import GIB, Night, verified
from support.points import vm_key
from support.repositories import new_repository
from support.stores import MemoryStore

from airflow_provider_azstack.console.pictures import charts, facts
from airflow_provider_azstack.console.pictures.days import good_points
from airflow_provider_azstack.console.pictures.facts import Facts, Wanted, gather
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    DiskPart,
    Manifest,
    Unprotected,
    Workload,
    WorkloadDisk,
    WorkloadVm,
)
from airflow_provider_azstack.repo.points import flags, holds
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify import ledger

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def repository() -> Repository:
    store = MemoryStore()
    return Repository(store, new_repository(store).keys, clock=lambda: NOW)


def night(repository: Repository, days_ago: int, **given: object) -> Night:
    return Night(repository, NOW.replace(hour=1) - timedelta(days=days_ago), **given)


def states(told: Facts, vm: str) -> str:
    """Return a VM's days in one letter each, the newest last."""
    [row] = [row for row in told.vms if row.vm == vm]
    return "".join(cell.state[0] for cell in row.cells)


def told(repository: Repository, **given: object) -> Facts:
    return gather(repository, Wanted(**{"zone": UTC, "days": 5, **given}))


def stretches(repository: Repository) -> list[tuple[str, str, str]]:
    """Return host, disk and workload of what the newest job's timeline has."""
    timeline = told(repository).timeline
    assert timeline is not None
    return [(one.host, one.disk, one.workload) for one in timeline.stretches]


def test_a_day_shows_the_most_telling_of_what_happened_on_it(repository: Repository) -> None:
    """Verified, flagged, failed, forgotten since, a point, nothing: a letter each, and why."""
    first = night(repository, 4)
    first.done(1, is_kept=False)
    first.failed(2, "no room")
    first.end()
    second = night(repository, 2)
    good = second.done(1)
    odd = second.done(2)
    refused = [Unprotected(id="/VMs/x", name="x", reason="encrypted")]
    second.end(unprotected=refused)
    third = night(repository, 1)
    third.done(1)
    third.end(unprotected=refused)
    verified(repository, NOW, [good])
    flags.put_flag(repository, odd.vm.key, odd.id, ("much changed",), NOW)
    found = told(repository)
    assert states(found, "vm-1") == "gnvpn"
    assert states(found, "vm-2") == "fnfnn"
    assert states(found, "x") == "nnffn"
    [row] = [row for row in found.vms if row.vm == "vm-2"]
    assert row.cells[0].text == "failed: no room"
    assert "suspicious" in row.cells[2].text


def test_a_failure_is_not_hidden_by_a_point_of_the_same_day(repository: Repository) -> None:
    one = night(repository, 0)
    one.done(1)
    one.end()
    other = Night(repository, NOW, policy="hourly")
    other.failed(1, "409 on https://x/blob?sig=secret")
    other.end()
    [row] = told(repository).vms
    assert row.cells[-1].state == "point"
    assert row.cells[-1].text == "restore point, and a job failed: 409 on https://x/blob?***"


def test_days_are_those_of_the_clock_that_was_asked_for(repository: Repository) -> None:
    late = Night(repository, datetime(2026, 11, 20, 23, 30, tzinfo=UTC))
    late.done(1)
    late.end()
    assert states(told(repository), "vm-1") == "nnpnn"
    assert states(told(repository, zone=BERLIN), "vm-1") == "nnnpn"


def test_what_an_earlier_verification_found_good_counts_until_one_finds_damage(
    repository: Repository,
) -> None:
    points = []
    for day in (3, 2, 1):
        one = night(repository, day)
        points.append(one.done(1))
        one.end()
    for number, (point, damaged) in enumerate(zip(points, (0, 1, 0), strict=True)):
        verified(repository, NOW - timedelta(hours=5 - number), [point], damaged=damaged)
    ended = ledger.outcomes(repository.records, NOW)
    assert good_points(ended) == {(vm_key(1), point.id) for point in points[1:]}
    assert good_points(ended[:1]) == {(vm_key(1), points[0].id)}
    assert good_points([]) == set()


def test_nothing_wrong_is_an_empty_list(repository: Repository) -> None:
    one = night(repository, 0)
    one.done(1)
    one.end()
    assert told(repository).attention == ()
    assert told(repository, max_age_hours=14.0).attention == ()


def test_the_list_has_everything_that_needs_attention_the_worst_first(
    repository: Repository,
) -> None:
    old = night(repository, 40)
    point = old.done(1)
    old.done(4)
    old.end()
    new = night(repository, 0)
    new.failed(2, "no snapshot")
    new.failed(1, "no room")
    new.end(unprotected=[Unprotected(id="/vms/x", name="x", reason="encrypted")])
    verified(repository, NOW - timedelta(days=35), [point])
    verified(repository, NOW - timedelta(days=33), [point], damaged=2)
    flags.put_flag(repository, point.vm.key, point.id, ("os: much changed",), NOW)
    holds.add_hold(repository, point.vm.key, point.id, "audit")
    found = told(repository, max_age_hours=26)
    assert [(item.weight, item.text) for item in found.attention] == [
        ("bad", "1 VM without any restore point"),
        ("bad", "1 VM that the newest job could not protect"),
        ("bad", "1 VM whose newest job failed"),
        (
            "bad",
            "the last verification (cycle, 2026-10-20 14:00) found 2 restore points damaged",
        ),
        ("bad", "2 VMs whose newest restore point is older than 26 hours"),
        ("look", "1 restore point flagged as suspicious"),
        ("look", "1 VM never verified, though backed up for more than 30 days"),
        ("look", "1 VM not verified within 30 days"),
        ("note", "1 restore point on legal hold"),
    ]
    details = {item.text.split(" ", 2)[2]: item.details for item in found.attention}
    assert details["without any restore point"] == (("vm-2", "no snapshot"),)
    assert details["point flagged as suspicious"] == (("vm-1", f"{point.id}: os: much changed"),)
    assert details["never verified, though backed up for more than 30 days"][0].name == "vm-4"
    assert found.late == 4


def test_a_damaged_image_record_costs_the_timeline_and_nothing_else(
    repository: Repository,
) -> None:
    one = night(repository, 0)
    one.done(1)
    one.end()
    store = repository.store
    assert isinstance(store, MemoryStore)
    [name] = [name for name in store.objects if name.startswith("images/")]
    store.objects[name] = store.objects[name][:-1]
    found = told(repository)
    assert found.timeline is None
    assert states(found, "vm-1") == "nnnnp"
    [item] = found.attention
    assert name in item.details[0].text


def test_an_unreadable_point_is_on_the_list_and_hides_nothing(repository: Repository) -> None:
    one = night(repository, 0)
    point = one.done(1)
    one.done(2)
    one.end()
    store = repository.store
    assert isinstance(store, MemoryStore)
    name = f"points/{point.vm.key}/{point.id}"
    store.objects[name] = store.objects[name][:-1]
    found = told(repository)
    texts = [item.text for item in found.attention]
    assert "1 record that cannot be read: verify the repository" in texts
    assert states(found, "vm-2") == "nnnnp"


def test_a_job_tells_what_was_expected_of_it(repository: Repository) -> None:
    began = NOW.replace(hour=1)
    one = Night(repository, began, stop_starting_at=began + timedelta(minutes=75))
    one.done(1, read=3 * GIB)
    one.end(90, expected_minutes=60)
    found = told(repository)
    [line] = charts.job_bars(found.jobs, BERLIN)
    assert (line.time.text, line.expected, line.window) == ("1 h 30 min", "1 h 0 min", "03:15")
    assert line.time.length == 100
    assert (line.time.expected, line.time.stop) == (66.67, 83.33)


def test_growth_adds_up_what_jobs_stored(repository: Repository) -> None:
    for day in (30, 20, 1):
        one = night(repository, day)
        one.done(1, read=3 * GIB)
        one.end()
    drawn = charts.growth(told(repository).grown, UTC)
    assert drawn is not None
    assert drawn.months == (
        ("2026-11", 2, 2 * GIB, 3 * GIB),
        ("2026-10", 1, GIB, GIB),
    )
    assert all(drawn.left <= tick.at <= drawn.right for tick in drawn.x_ticks)
    assert all(drawn.top <= tick.at <= drawn.bottom for tick in drawn.y_ticks)
    assert charts.growth((), UTC) is None


def test_the_timeline_has_each_disk_on_its_host_from_begin_to_end(repository: Repository) -> None:
    one = night(repository, 0)
    one.done(1, disks=("os", "data-0"), at=10, seconds=100, read=GIB)
    one.done(2, host="host-b", at=0, seconds=50)
    one.done(3, at=60, seconds=500)
    one.end(20, expected_minutes=25)
    found = told(repository)
    assert found.timeline is not None
    assert [(s.host, s.vm, s.disk, s.seconds) for s in found.timeline.stretches] == [
        ("host-a", "vm-1", "os", 100),
        ("host-a", "vm-3", "os", 500),
        ("host-a", "vm-1", "data-0", 100),
        ("host-b", "vm-2", "os", 50),
    ]
    drawn = charts.gantt(found.timeline, UTC)
    assert drawn is not None
    assert [(host.name, host.lanes) for host in drawn.hosts] == [("host-a", 2), ("host-b", 1)]
    assert drawn.marks[0].label == "expected end"
    assert drawn.slowest[0].vm == "vm-3"
    for shown in drawn.bars:
        assert drawn.left <= shown.x
        assert shown.x + shown.width <= drawn.right
        assert shown.y > 0
        assert shown.y + shown.height <= drawn.height


def test_the_hosts_of_a_vm_in_pieces_are_those_of_the_manifests(repository: Repository) -> None:
    """Without any it is said that nobody knows which; with one, it was the other host."""
    halves = (DiskPart(0, 2 * GIB), DiskPart(2 * GIB, 4 * GIB))
    one = night(repository, 0)
    one.done(1, more_hosts=("host-b",), parts=halves)
    one.end()
    nobody_knows, known = stretches(repository), []
    for number, (host, half) in enumerate(zip(("host-a", "host-b"), halves, strict=True)):
        disk = WorkloadDisk(
            key="os",
            kind="managed",
            source="d",
            size_bytes=4 * GIB,
            unique_id="u",
            expected_bytes=GIB,
            part=half,
        )
        vm = WorkloadVm(id="/v", key=vm_key(1), name="vm-1", disks=(disk,), piece=number, pieces=2)
        workload = Workload(
            job=one.job, host=host, number=0, label=f"{host} / vm-1", expected_bytes=GIB, vms=(vm,)
        )
        manifest = Manifest(job=one.job, host=host, workloads=(workload,))
        repository.records.put(f"manifests/{one.job.run}/{host}/0001", manifest)
        known.append(stretches(repository))
    second = "os (2.147 to 4.295 GB)"
    assert nobody_knows == [
        ("host-a or host-b", "os (0 to 2.147 GB)", ""),
        ("host-a or host-b", second, ""),
    ]
    assert [found[0][2] for found in known] == ["host-a / vm-1"] * 2
    assert [found[1] for found in known] == [
        ("host-b", second, ""),
        ("host-b", second, "host-b / vm-1"),
    ]


def test_images_tell_which_host_read_them(repository: Repository) -> None:
    """Without any manifest, and whatever the record says of the VM's first host."""
    halves = (DiskPart(0, 2 * GIB), DiskPart(2 * GIB, 4 * GIB))
    one = night(repository, 0)
    one.done(1, more_hosts=("host-b",), parts=halves, read_by=("host-b", "host-a"))
    one.end()
    assert stretches(repository) == [
        ("host-a", "os (2.147 to 4.295 GB)", ""),
        ("host-b", "os (0 to 2.147 GB)", ""),
    ]


def test_any_job_may_be_drawn_and_an_unknown_one_is_refused(repository: Repository) -> None:
    for day in (3, 1):
        one = night(repository, day)
        one.done(1)
        one.end()
    newest = told(repository).timeline
    assert newest is not None
    assert newest.record.started_at.day == 21
    older = told(repository, run="nightly-20261119t010000").timeline
    assert older is not None
    assert older.record.started_at.day == 19
    with pytest.raises(ConfigurationError, match="no job 'other'"):
        told(repository, run="other")


def test_of_thousands_of_vms_those_are_drawn_that_need_attention(repository: Repository) -> None:
    """5,000 VMs: only so many rows, bars and lanes are drawn, and it is counted what is not."""
    one = night(repository, 0)
    for number in range(1, 5001):
        one.done(number, host=f"host-{number % 40:02d}", at=number % 3000, seconds=1)
    one.failed(5001, "no room")
    one.end()
    found = told(repository)
    assert (found.all_vms, len(found.vms)) == (5001, facts.VMS_SHOWN)
    assert found.vms[0].vm == "vm-5001"
    drawn = found.timeline and charts.gantt(found.timeline, UTC)
    assert drawn is not None
    assert len(drawn.bars) == charts.BARS_SHOWN
    assert drawn.not_drawn == 5000 - charts.BARS_SHOWN
    assert sum(host.height > 0 for host in drawn.hosts) <= charts.LANES_SHOWN
    assert sum(host.images for host in drawn.hosts) == 5000


def test_each_record_is_read_once(repository: Repository) -> None:
    """Time grows with the number of records, and nothing but records is read."""
    for day in (2, 1):
        one = night(repository, day)
        one.done(1)
        one.done(2)
        one.end()
    store = repository.store
    assert isinstance(store, MemoryStore)
    read: list[str] = []
    get = store.get
    store.get = lambda name, *most: read.append(name) or get(name, *most)  # type: ignore[method-assign]
    told(repository)
    assert len(read) == len(set(read))
    assert {name.split("/")[0] for name in read} <= {"points", "jobs", "images"}
    assert sum(name.startswith("images/") for name in read) == 2, "of the newest job alone"


def test_an_empty_repository_has_an_empty_page(repository: Repository) -> None:
    found = told(repository)
    assert (found.vms, found.jobs, found.attention, found.timeline) == ((), (), (), None)
