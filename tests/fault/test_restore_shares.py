"""One disk that several hosts write together: what they may rely on when one of them fails."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.compound import Rig
from support.mortal import DeathError, Mortal
from support.restores import digests, execute, plan

from airflow_provider_azstack.config import Caps, Config, Host
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.backup import disk as backup_disk
from airflow_provider_azstack.engine.backup import pipeline
from airflow_provider_azstack.engine.restore import parts as restore_parts
from airflow_provider_azstack.engine.restore import share
from airflow_provider_azstack.engine.restore.execute import Outcome, create_vms, discard
from airflow_provider_azstack.engine.restore.prepare import Splitting, remarked
from airflow_provider_azstack.engine.restore.records import PartDone, RestorePlan
from airflow_provider_azstack.errors import AzStackError, ConfigurationError, SourceGone
from airflow_provider_azstack.model import to_plain

pytestmark = pytest.mark.tier2

MIB = 1 << 20
REGION = 8 * MIB  # of the images here, that their disks may be small
ASKED = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}
WAYS = {
    "unmanaged": {"disk_kind": "unmanaged", "storage_account": "staging"},
    "staged": {"storage_account": "staging"},
    "upload": {},
}


class Hosts:
    """A restore's tasks, by host, in a session of their own."""

    def __init__(self, site: Rig, made: RestorePlan, *, shared_uploads: bool = False) -> None:
        self.site, self.made = site, made
        self.session = site.repository.open_session("restore", run=made.id)
        self.splitting = Splitting({"alpha": 1, "beta": 1}, 200_000, shared_uploads)
        self.prepared: dict[str, Any] = {}

    def _at(self, host: str = "") -> Any:
        return share.at_work(self.site.stack, self.session, self.made, tell=_say, host=host)

    def prepare(self) -> dict[str, Any]:
        with self._at() as work:
            self.prepared = share.prepare(work, self.splitting)
        return self.prepared

    def write(self, host: str) -> None:
        for task in self.prepared["disks"][host]:
            with self._at(host) as work:
                share.write(work, task)

    def finish(self) -> None:
        with self._at("alpha") as work:
            share.finish(work, self.prepared["split"])

    def create(self) -> list[Outcome]:
        with self._at() as work:
            return create_vms(work)

    def all_at_once(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.write, self.prepared["disks"]))


def _say(_: str) -> None:
    pass


@pytest.fixture
def site(it: Rig) -> Rig:
    it.emulator.add_group("dr")
    it.emulator.add_storage_account("staging", "rg")
    return it


@pytest.fixture
def vm(site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> EmulatedVm:
    """A VM with a disk of four regions, each of which holds a little."""
    for module in (backup_disk, pipeline):
        monkeypatch.setattr(module, "REGION_BYTES", REGION)
    vm = emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=4 * REGION)])
    for region in range(4):
        vm.disks[0].write(region * REGION + MIB, bytes(range(region, region + 250)) * 1000)
    site.backup()
    return vm


@pytest.fixture(params=WAYS)
def hosts(request: pytest.FixtureRequest, site: Rig, vm: EmulatedVm, emulator: Emulator) -> Hosts:
    """Hosts that share the disk, in each way that there is."""
    assert vm
    is_upload = request.param == "upload"
    emulator.behaviour.second_grant = "allowed" if is_upload else "refused"
    made = plan(site, **ASKED, **WAYS[request.param])
    return Hosts(site, made, shared_uploads=is_upload)


def whole(vm: EmulatedVm) -> dict[tuple[str, str], str]:
    return {("web01", "os"): vm.disks[0].sha256()}


def pages(emulator: Emulator) -> int:
    """Return how many page writes were done."""
    there = (s.path for s in emulator.requests if s.method == "PUT" and s.status == 201)
    return sum("/md-" in path or path.endswith(".vhd") for path in there)


def noted(hosts: Hosts) -> list[PartDone]:
    records = hosts.site.repository.records
    found = records.store.list(f"restores/{hosts.made.id}/")
    return [records.get(info.name, PartDone) for info in found if "/part-" in info.name]


def assert_restored(hosts: Hosts, vm: EmulatedVm) -> None:
    """The VM is there, its disk is what it was, and nothing is left of the way there."""
    emulator = hosts.site.emulator
    assert [outcome.status for outcome in hosts.create()] == ["done"]
    assert digests(emulator, hosts.made) == whole(vm)
    hosts.session.close()
    assert [left for left in emulator.leftovers() if left.kind == "grant"] == []
    assert hosts.made.vms[0].disks[0].way == "blob" or not emulator.world.blobs


def test_hosts_write_one_disk_together(hosts: Hosts, vm: EmulatedVm, emulator: Emulator) -> None:
    """Each writes its share at the same time as the others; the end is written once, by one."""
    tasks = hosts.prepare()["disks"]
    assert [task["share"] for host in ("alpha", "beta") for task in tasks[host]] == [[0, 2], [2, 4]]
    hosts.all_at_once()
    assert [part.host for part in noted(hosts)] == ["alpha", "beta"]
    emulator.requests.clear()
    hosts.finish()
    assert pages(emulator) == 1  # the footer
    assert_restored(hosts, vm)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_host_may_die_at_any_call(
    hosts: Hosts, vm: EmulatedVm, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """F-C5: what it noted is not written again; its return or another host does the rest."""
    monkeypatch.setattr(restore_parts, "PART_BYTES", MIB // 4)  # two parts in a share
    at, is_dead = 0, True
    while is_dead:
        at += 1
        hosts.prepare()
        hosts.write("alpha")
        is_dead = dies(hosts, monkeypatch, at, after=after)
        before = {part.host for part in noted(hosts)}
        assert "alpha" in before
        hosts.site.emulator.requests.clear()
        if at % 2:
            hosts.write("beta")
        hosts.finish()
        assert pages(hosts.site.emulator) <= 3  # never a part of alpha's
        assert_restored(hosts, vm)
        hosts = again(hosts)
    assert at > 4


def dies(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> bool:
    with monkeypatch.context() as patch:
        Mortal(patch, at, after=after)
        try:
            hosts.write("beta")
        except DeathError:
            return True
    return False


def again(hosts: Hosts) -> Hosts:
    """Return hosts that restore the same VM once more, under another name."""
    request = to_plain(hosts.made.request)
    number = len(list(hosts.site.emulator.world.of_type("Microsoft.Compute/virtualMachines")))
    request["changes"] = {"web01": {"name": f"web01-{number}"}}
    made = plan(hosts.site, **request)
    return Hosts(hosts.site, made, shared_uploads=hosts.splitting.shared_uploads)


def test_two_tries_of_a_share_at_once(hosts: Hosts, vm: EmulatedVm) -> None:
    """F-A3: they write the same bytes to the same place, and note the same."""
    hosts.prepare()
    with ThreadPoolExecutor() as pool:
        list(pool.map(hosts.write, ["alpha", "beta", "beta", "alpha"]))
    hosts.finish()
    assert_restored(hosts, vm)


def test_prepare_may_run_twice_at_any_time(hosts: Hosts, vm: EmulatedVm) -> None:
    """F-A3, F-A7: at once, and again while hosts write: the disk is made once, and kept."""
    with ThreadPoolExecutor() as pool:
        one, other = (pool.submit(hosts.prepare) for _ in range(2))
        assert one.result() == other.result()
    hosts.write("alpha")
    assert [t["share"] for tasks in hosts.prepare()["disks"].values() for t in tasks] == [
        [0, 3],
        [3, 4],
    ]  # what is left of it
    hosts.all_at_once()
    assert len(noted(hosts)) == 3
    hosts.finish()
    assert hosts.prepare()["split"] == []
    assert_restored(hosts, vm)


def test_a_missing_part_keeps_a_disk_from_being_used(
    hosts: Hosts, vm: EmulatedVm, emulator: Emulator
) -> None:
    """A disk that lacks a host's share is never finished; discarding leaves nothing of it."""
    hosts.prepare()
    hosts.write("alpha")
    (outcome,) = hosts.create()
    assert outcome.status == "failed"
    assert "not complete" in outcome.reason
    emulator.faults.answer("PUT", "comp=page", 409, times=99)
    with pytest.raises(AzStackError):
        hosts.finish()
    assert [outcome.status for outcome in hosts.create()] == ["failed"]
    assert hosts.site.stack.find(hosts.made.vms[0].target) is None
    assert len(discard(hosts.site.stack, hosts.session, hosts.made)) == 1
    place = hosts.made.vms[0].disks[0].id
    assert not place.startswith("/") or hosts.site.stack.find(place) is None
    assert [name for _, _, name in emulator.world.blobs] == []
    emulator.faults.clear()
    hosts.prepare()
    hosts.all_at_once()
    hosts.finish()
    assert_restored(hosts, vm)


def test_a_host_that_comes_back_after_the_end_changes_nothing(
    hosts: Hosts, vm: EmulatedVm, emulator: Emulator
) -> None:
    """F-A4: its task was done by another one: there is nothing to write, and nothing is written."""
    hosts.prepare()
    hosts.finish()
    emulator.requests.clear()
    hosts.write("beta")
    assert pages(emulator) == 0
    assert_restored(hosts, vm)


def test_a_share_of_a_disk_that_is_gone_is_not_written(hosts: Hosts) -> None:
    """Hosts neither make nor delete what they share: the end of the run does, with all of it."""
    hosts.prepare()
    discard(hosts.site.stack, hosts.session, hosts.made)
    with pytest.raises(SourceGone):
        hosts.write("alpha")


@pytest.mark.parametrize("staged", [False, True])
def test_a_stack_that_does_not_share_after_all(
    site: Rig, vm: EmulatedVm, emulator: Emulator, *, staged: bool
) -> None:
    """It is tried before any host begins: then a page blob is written, or one host writes."""
    hosts = Hosts(site, plan(site, **ASKED, **WAYS["staged" if staged else "upload"]),
                  shared_uploads=True)  # fmt: skip
    tasks = hosts.prepare()
    assert len(tasks["split"]) == staged
    assert [len(tasks["disks"][host]) for host in ("alpha", "beta")] == [1, int(staged)]
    hosts.all_at_once()
    emulator.requests.clear()
    hosts.prepare()  # once more: what a host wrote is not taken away
    assert not [seen for seen in emulator.requests if seen.method == "DELETE"]
    hosts.all_at_once()
    hosts.finish()
    assert_restored(hosts, vm)


def test_a_disk_that_one_host_writes_is_not_taken_away(
    site: Rig, vm: EmulatedVm, emulator: Emulator
) -> None:
    """F-A7: prepare is cleared by hand while a host writes a disk that cannot be shared."""
    hosts = Hosts(site, plan(site, **ASKED), shared_uploads=True)
    hosts.prepare()
    emulator.faults.answer("PUT", "/md-.*comp=page", 409, times=1, skip=1)
    with pytest.raises(AzStackError):
        hosts.write("alpha")
    before = site.stack.get(hosts.made.vms[0].disks[0].id)["properties"]["uniqueId"]
    assert hosts.prepare()["split"] == []
    assert site.stack.get(hosts.made.vms[0].disks[0].id)["properties"]["uniqueId"] == before
    hosts.all_at_once()
    assert_restored(hosts, vm)


def test_a_grant_that_ends_the_one_before_is_no_sharing(
    site: Rig, vm: EmulatedVm, emulator: Emulator
) -> None:
    """A stack might give a second access and take the first away: the first is tried again."""
    emulator.behaviour.second_grant = "allowed"
    hosts = Hosts(site, plan(site, **ASKED), shared_uploads=True)
    emulator.faults.answer("PUT", "/md-.*comp=page", 403, times=2)
    assert hosts.prepare()["split"] == []
    hosts.all_at_once()
    assert_restored(hosts, vm)


@pytest.mark.parametrize(("most", "numbers"), [(None, 4), (3, 3), (1, 0), (9, 4)])
def test_a_disk_has_no_more_shares_than_its_cap_lets_write_it(
    site: Rig, vm: EmulatedVm, most: int | None, numbers: int
) -> None:
    """With ``caps.disk`` of 1 a disk is one task, like any other."""
    config = Config(
        hosts={"alpha": Host(streams=2), "beta": Host(streams=2)},
        caps=Caps(disk=most),
        split_gib=200_000 / 2**30,
    )
    one = Hosts(site, plan(site, **ASKED, **WAYS["unmanaged"]))
    one.splitting = Splitting.of(config)
    tasks = [task for of_host in one.prepare()["disks"].values() for task in of_host]
    shares = [task["share"] for task in tasks if "share" in task]
    assert (len(tasks), len(shares)) == (numbers or 1, numbers)
    one.all_at_once()
    one.finish()
    assert [outcome.status for outcome in one.create()] == ["done"]


def test_the_plan_says_how_a_big_disk_is_written(site: Rig, vm: EmulatedVm) -> None:
    assert vm
    two = Splitting({"alpha": 1, "beta": 1}, 200_000, shared_uploads=False)
    (alone,) = remarked(plan(site, **ASKED), two).remarks
    assert "by one host: give storage_account" in alone
    (staged,) = remarked(plan(site, **ASKED, storage_account="staging"), two).remarks
    assert "by several hosts as a page blob" in staged
    for none in (
        two._replace(shared_uploads=True),
        two._replace(least_bytes=8 << 30),
        two._replace(streams={"alpha": 1}),
    ):
        assert remarked(plan(site, **ASKED), none).remarks == ()


def test_what_one_host_began_one_host_goes_on_with(
    site: Rig, vm: EmulatedVm, emulator: Emulator
) -> None:
    """An upload that was not shared is not thrown away for a page blob."""
    made = plan(site, **ASKED, storage_account="staging")
    emulator.faults.answer("PUT", "/md-.*comp=page", 409, times=1, skip=1)
    assert execute(site, made)[0].status == "failed"
    hosts = Hosts(site, made)
    assert hosts.prepare()["split"] == []
    hosts.all_at_once()
    assert_restored(hosts, vm)


@pytest.mark.parametrize("part", [[0], [2, 1], [-1, 2], "0-1", [0, 1, 2], [None, 1]])
def test_tasks_of_elsewhere_are_refused(site: Rig, vm: EmulatedVm, part: object) -> None:
    """F-A12: what crosses between tasks is checked on arrival."""
    assert vm
    hosts = Hosts(site, plan(site, **ASKED, **WAYS["unmanaged"]))
    (task,) = hosts.prepare()["disks"]["alpha"]
    hosts.prepared["disks"]["alpha"] = [task | {"share": part}]
    with pytest.raises(ConfigurationError):
        hosts.write("alpha")
    hosts.prepared["disks"]["alpha"] = [task | {"key": "data-9"}]
    with pytest.raises(ConfigurationError):
        hosts.write("alpha")
