"""A restore as DAG runs: planned, written on the hosts' pools, created, and how a run ends."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support.airflow_home
from airflow.sdk.exceptions import AirflowFailException
from support.airflow_run import HOSTS, Run, Site, xcoms
from support.restores import disk_at

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.backup import disk as backup_disk
from airflow_provider_azstack.engine.backup import pipeline
from airflow_provider_azstack.operators.restore import ApproveRestore, CreateVms, OpenRestore

pytestmark = pytest.mark.tier2
MIB = 1 << 20
assert support.airflow_home.HOME
RESTORE = """\
from airflow_provider_azstack.dag_factory import restore_dag

dag = restore_dag({dag_id!r}, config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    emulator.add_group("dr")
    return Site(emulator, tmp_path, monkeypatch)


def back_up(site: Site, *names: str) -> list[EmulatedVm]:
    vms = [site.emulator.add_vm(name, "rg", [DiskSpec(size_bytes=4 * MIB)] * 2) for name in names]
    for vm in vms:
        for number, disk in enumerate(vm.disks):
            disk.write(MIB, f"{vm.name} {number}".encode() * 1000)
    assert site.run(site.dag("backup_before_restore")).state == "success"
    return vms


def run(site: Site, **conf: Any) -> Run:
    return site.run(site.dag("restores", RESTORE), conf)


def vm_ids(site: Site, group: str) -> dict[str, str]:
    kind = "Microsoft.Compute/virtualMachines"
    found = site.emulator.world.of_type(kind, f"{site.emulator.world.scope}/resourceGroups/{group}")
    return {vm.body["name"]: vm.id for vm in found}


def test_vms_come_back_by_way_of_every_host(site: Site) -> None:
    """Nothing that exists is touched, so nobody is asked."""
    vms = back_up(site, "web01", "web02")
    ended = run(site, vms=["web01", "web02"], mode="alternate", resource_group="dr", verify=True)
    assert ended.state == "success"
    assert ended.of("one.write_disk") == ["success"] * 2
    assert ended.of("two.write_disk") == ["success"] * 2
    assert vm_ids(site, "dr").keys() == {"web01", "web02"}
    for vm in vms:
        body = site.emulator.world.get(vm_ids(site, "dr")[vm.name])
        profile = body.properties["storageProfile"]
        places = [entry["managedDisk"]["id"] for entry in
                  (profile["osDisk"], *profile["dataDisks"])]  # fmt: skip
        restored = [disk_at(site.emulator, place).sha256() for place in places]
        assert restored == [disk.sha256() for disk in vm.disks]
    assert site.reopen().sessions() == {}


def test_a_big_disk_is_written_by_both_hosts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shares, as a page blob that is imported; the small disks beside it by one host each."""
    for module in (backup_disk, pipeline):
        monkeypatch.setattr(module, "REGION_BYTES", MIB)
    site.emulator.add_storage_account("staging", "rg")
    vm = site.emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=4 * MIB)] * 2)
    vm.disks[0].write(0, b"small" * 1000)
    for region in range(4):
        vm.disks[1].write(region * MIB, bytes([65 + region]) * 8192)
    assert site.run(site.dag("backup_before_restore")).state == "success"
    site.configure(HOSTS, split_gib=1e-5, NO_OF_BACKUP_STREAMS_PER_NODE=1)
    conf = {"mode": "alternate", "resource_group": "dr", "storage_account": "staging"}
    ended = run(site, vms=["web01"], **conf)
    assert ended.state == "success"
    assert ended.of("prepare") == ended.of("finish_disks") == ["success"]
    assert sorted(ended.of("one.write_disk") + ended.of("two.write_disk")) == ["success"] * 3
    assert {"one", "two"} == {host for host in ("one", "two") if ended.of(f"{host}.write_disk")}
    profile = site.emulator.world.get(vm_ids(site, "dr")["web01"]).properties["storageProfile"]
    places = [e["managedDisk"]["id"] for e in (profile["osDisk"], *profile["dataDisks"])]
    restored = [disk_at(site.emulator, place).sha256() for place in places]
    assert restored == [disk.sha256() for disk in vm.disks]
    assert not site.emulator.world.blobs


def test_a_refused_plan_writes_nothing(site: Site) -> None:
    """F-H10: what exists is not written over; the run fails with every reason."""
    back_up(site, "web01")
    site.emulator.requests.clear()
    ended = run(site, vms=["web01", "nobody"], mode="original")
    assert ended.state == "failed"
    assert ended.of("plan") == ["failed"]
    assert ended.of("clean_up") == ["success"]
    assert not [seen for seen in site.emulator.requests if seen.method == "PUT"]
    assert site.reopen().sessions() == {}


def test_a_request_that_is_none_fails_first(site: Site) -> None:
    ended = run(site, vms=["web01"], mode="alternate", resource_grp="dr")
    assert ended.state == "failed"
    assert ended.of("open_restore") == ["failed"]


def test_a_try_whose_session_nobody_heard_of_leaves_none(site: Site) -> None:
    """F-A16: killed before it could tell its id; a prune would wait for that session for ever."""
    request = {"vms": ["web01"], "mode": "original"}
    started = SimpleNamespace(dag_id="restores", run_id="manual", conf=request)
    task = OpenRestore(
        task_id="o",
        stack_conn_id="azure_stack_default",
        repository_conn_id="azstack_repository_default",
    )
    other = site.reopen().open_session("restore", run="another").id
    first, second = (
        OpenRestore.execute.__wrapped__(task, {"dag_run": started})["session"] for _ in range(2)
    )
    assert first != second
    assert set(site.reopen().sessions()) == {other, second}


def test_a_disk_that_fails_fails_the_run_and_is_taken_away(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """F-R1: no VM of half disks; what is whole stays for the next run, what is not is deleted."""
    back_up(site, "web01")
    site.emulator.faults.answer("PUT", "/md-.*comp=page", 409, times=1)
    capfd.readouterr()
    ended = run(site, vms=["web01"], mode="alternate", resource_group="dr")
    assert ended.state == "failed"
    assert ended.of("complete") == ["failed"]
    assert capfd.readouterr().out.count("not complete") == 1, "the reason is said once"
    assert vm_ids(site, "dr") == {}
    assert not [left for left in site.emulator.leftovers() if left.kind == "grant"]
    assert len(list(site.emulator.world.of_type("Microsoft.Compute/disks"))) == 3
    assert run(site, vms=["web01"], mode="alternate", resource_group="dr").state == "success"


def test_what_a_salvage_lost_is_said_once_and_is_in_the_summary(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line for each place, as a warning; the run is green, for that is what was asked for."""
    [vm] = back_up(site, "web01")
    packs = [pack for pack in (site.path / "repository/packs").rglob("*") if pack.is_file()]
    vm.disks[0].write(0, b"later" * 1000)
    assert site.run(site.dag("backup_before_restore")).state == "success"
    for pack in packs:
        pack.chmod(0o600)
        pack.unlink()
    capfd.readouterr()
    ended = run(site, vms=["web01"], mode="alternate", resource_group="dr", salvage=True)
    assert ended.state == "success"
    lines = [line for line in capfd.readouterr().out.splitlines() if " are lost" in line]
    assert sorted(line.split("web01 ")[1].split(":")[0] for line in lines) == ["data-0", "os"]
    assert all("[warning" in line for line in lines)
    (summary,) = xcoms(ended.run_id, "summary")
    assert summary["rows"][0]["reason"].startswith("os: ")
    assert "are lost" in summary["markdown"]


ASKED = """
from airflow_provider_azstack.engine.backup import disk as backup_disk
from airflow_provider_azstack.engine.backup import pipeline
from airflow_provider_azstack.operators.restore import ApproveRestore

def answer(self, context):
    [vm] = self.planned["vms"]
    assert vm.startswith("web01 as of 20")
    assert ", put into /subscriptions/" in vm
    *gone, stopped = self.planned["touched"]
    assert [one.split(": ")[1] for one in gone] == ["gives way to a disk of web01, and is kept"] * 2
    assert stopped.endswith("/web01: is stopped, and its disks are replaced")
    return {{"chosen_options": ["{answer}"]}}

ApproveRestore.execute = answer
"""


@pytest.mark.parametrize("answer", ["Approve", "Reject"])
def test_disks_are_replaced_after_a_yes(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """The VM keeps its name and vmId; without a yes it is not even stopped."""
    monkeypatch.setattr(ApproveRestore, "execute", ApproveRestore.execute)
    (vm,) = back_up(site, "web01")
    was = [disk.sha256() for disk in vm.disks]
    for disk in vm.disks:
        disk.write(0, b"spoilt" * 1000)
    dag = site.dag("replacing", RESTORE + ASKED.replace("{answer}", answer))
    ended = site.run(dag, {"vms": ["web01"], "mode": "original", "replace": True, "power_on": True})
    profile = site.emulator.world.get(vm.id).properties["storageProfile"]
    places = [entry["managedDisk"]["id"] for entry in (profile["osDisk"], *profile["dataDisks"])]
    found = [disk_at(site.emulator, place).sha256() for place in places]
    if answer == "Approve":
        assert ended.state == "success"
        assert found == was
    else:
        assert ended.state == "failed"
        assert places == [disk.source for disk in vm.disks]
    assert site.emulator.power(vm) == "running"
    assert site.reopen().sessions() == {}


def test_a_vm_whose_new_disks_fail_runs_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-R7: the run is red, and the VM as it was."""
    monkeypatch.setattr(ApproveRestore, "execute", ApproveRestore.execute)
    (vm,) = back_up(site, "web01")
    site.emulator.faults.answer("PUT", "/md-.*comp=page", 409, times=1)
    dag = site.dag("replacing", RESTORE + ASKED.replace("{answer}", "Approve"))
    ended = site.run(dag, {"vms": ["web01"], "mode": "original", "replace": True})
    assert ended.state == "failed"
    profile = site.emulator.world.get(vm.id).properties["storageProfile"]
    assert profile["osDisk"]["managedDisk"]["id"] == vm.disks[0].source
    assert site.emulator.power(vm) == "running"


class Answers:
    """A task instance that pulls what a person answered."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def xcom_pull(self, **_: object) -> object:
        return self.answer


@pytest.mark.parametrize("answer", [None, {}, {"chosen_options": ["Reject"]}])
def test_without_a_yes_nothing_that_exists_is_touched(site: Site, answer: object) -> None:
    """Completion runs whatever came before it, so it looks for the answer itself."""
    task = CreateVms(
        task_id="complete",
        planned={"touched": ["/a/vm"], "session": "s", "plan": "p"},
        approval="approve",
        stack_conn_id="azure_stack_default",
        repository_conn_id="azstack_repository_default",
    )
    with pytest.raises(AirflowFailException, match="not approved"):
        task.execute({"ti": Answers(answer)})


def test_a_person_is_asked_only_when_something_existing_is_touched() -> None:
    quiet = ApproveRestore(task_id="quiet", planned={"touched": []})
    assert quiet.execute({}) is None
    planned = {"vms": ["web01 as of Monday"], "touched": ["/the/vm: is stopped"]}
    asking = ApproveRestore(task_id="asking", planned=planned)
    assert asking.fail_on_reject
    asked: list[str] = []
    parent = type(asking).__mro__[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parent, "execute", lambda self, _: asked.append(self.body))
        asking.execute({})
    assert "- `web01 as of Monday`" in asked[0]
    assert "- `/the/vm: is stopped`" in asked[0]


def test_who_said_no_is_not_asked_again() -> None:
    """Whatever retries a DAG has by default."""
    asking = ApproveRestore(task_id="asking", planned={"touched": ["/the/vm"]}, retries=5)
    event = {
        "chosen_options": ["Reject"],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "1", "name": "somebody"},
    }
    with pytest.raises(AirflowFailException, match="rejected"):
        asking.execute_complete({}, event)
