"""The whole compound backup as DAG runs: what is published, and how a run ends."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.airflow_run import SOURCE, Site, asset_events, connections
from support.ports import closed_port

from airflow_provider_azstack.arm import client
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator

pytestmark = pytest.mark.tier2
MIB = 1 << 20


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(emulator, tmp_path, monkeypatch)


def add_vm(site: Site, name: str, group: str = "web", disks: int = 1, **more: Any) -> EmulatedVm:
    vm = site.emulator.add_vm(name, group, [DiskSpec(size_bytes=4 * MIB)] * disks, **more)
    for position, disk in enumerate(vm.disks):
        disk.write(MIB, name.encode() * 5000 + bytes([position]))
    return vm


def published(site: Site) -> list[str]:
    return sorted(point.vm.name for point in site.reopen().points())


def content(site: Site, vm: EmulatedVm) -> list[bytes]:
    """Read the disks of a VM's newest restore point back."""
    from airflow_provider_azstack.repo.images.reader import ImageReader

    repository = site.reopen()
    point = repository.latest_point(vm.vm_id)
    assert point is not None
    found = []
    for part in sorted(point.images, key=lambda image: (image.disk_key != "os", image.disk_key)):
        image = repository.image(part.image)
        found.append(ImageReader(image, repository.reader()).read(0, image.size_bytes))
    return found


def test_every_vm_gets_a_restore_point_and_then_an_incremental_one(site: Site) -> None:
    """Published points read back as the disks were; snapshots that nobody needs are gone."""
    vms = [add_vm(site, f"vm{number}", disks=1 + number) for number in range(3)]
    dag = site.dag("whole")
    assert site.run(dag).state == "success"
    assert published(site) == ["vm0", "vm1", "vm2"]
    for vm in vms:
        assert content(site, vm) == [disk.read(0, disk.size_bytes) for disk in vm.disks]
    vms[2].disks[1].write(2 * MIB, b"changed in the guest")
    assert site.run(dag).state == "success"
    assert published(site) == ["vm0", "vm0", "vm1", "vm1", "vm2", "vm2"]
    assert content(site, vms[2]) == [disk.read(0, disk.size_bytes) for disk in vms[2].disks]
    newest = site.reopen().latest_point(vms[2].vm_id)
    assert {image.changes_known for image in newest.images} == {"difference"}
    leftovers = site.emulator.leftovers()
    assert [left.kind for left in leftovers] == ["snapshot"] * 6  # one reference for each disk


def test_a_vm_that_fails_fails_the_run_and_no_other_vm(site: Site) -> None:
    """F-A8: other VMs published, that VM has no point, the DAG run failed, all is cleaned up."""
    good, bad = add_vm(site, "good"), add_vm(site, "bad", group="broken")
    site.emulator.faults.answer("PUT", "resourceGroups/broken/.*/snapshots/", 403, times=100)
    run = site.run(site.dag("one-fails"))
    assert run.state == "failed"
    assert published(site) == ["good"]
    assert run.of("complete") == ["failed"]
    assert run.of("clean_up") == ["success"]
    assert [event["point"] for event in asset_events("azstack://127.0.0.1/good")] == [
        point.id for point in site.reopen().points()
    ]
    assert content(site, good) == [good.disks[0].read(0, 4 * MIB)]
    (record,) = site.reopen().jobs()
    failed = {vm.name: vm for vm in record.vms if vm.status == "failed"}
    assert set(failed) == {"bad"}
    assert "403" in failed["bad"].reason or "denied" in failed["bad"].reason.lower()
    assert all(bad.name not in left.id for left in site.emulator.leftovers())


def test_when_all_fail_nothing_is_published_and_nothing_is_left(site: Site) -> None:
    """F-A8: all fail."""
    add_vm(site, "a"), add_vm(site, "b")
    site.emulator.behaviour.denied.add("Microsoft.Compute/snapshots/beginGetAccess/action")
    run = site.run(site.dag("all-fail"))
    assert run.state == "failed"
    assert published(site) == []
    assert site.emulator.leftovers() == []


def test_a_completion_that_fails_fails_the_run_and_is_cleaned_up(site: Site) -> None:
    """F-A8: completion fails: no point, run failed, nothing left on the stack."""
    add_vm(site, "a")
    source = SOURCE + "dag.get_task('complete').repository_conn_id = 'missing'\n"
    run = site.run(site.dag("complete-fails", source))
    assert run.state == "failed"
    assert run.of("clean_up") == ["success"]
    assert published(site) == []
    assert site.emulator.leftovers() == []


def test_a_teardown_that_fails_does_not_undo_a_good_backup(site: Site) -> None:
    """F-A8: only the teardown failed: the run is a success, and its failure callback is called."""
    add_vm(site, "a")
    told = site.path / "told"
    source = SOURCE + (
        "clean_up = dag.get_task('clean_up')\n"
        "clean_up.stack_conn_id = 'missing'\n"
        f"clean_up.on_failure_callback = [lambda context: open({str(told)!r}, 'w').close()]\n"
    )
    run = site.run(site.dag("clean-up-fails", source))
    assert run.of("clean_up") == ["failed"]
    assert run.state == "success"
    assert told.exists()
    assert published(site) == ["a"]


def test_a_policy_that_selects_nothing_is_an_error(site: Site) -> None:
    """F-A9: nothing found is not a success, unless the policy says that it may be."""
    add_vm(site, "a")
    selection = {"tags": {"backup": "nightly"}}
    run = site.run(site.dag("nothing", selection=selection))
    assert run.state == "failed"
    assert run.of("discover") == ["failed"]
    run = site.run(site.dag("may-be-nothing", selection=selection, may_be_empty=True))
    assert run.state == "success"
    assert site.reopen().jobs()[-1].status == "done"


def test_a_stack_that_was_never_heard_of_is_not_waited_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """F-N18: discovery gives a dead address up after two minutes, here none; nothing stays open."""
    monkeypatch.setattr(client, "CONTACT_SECONDS", 0.0)
    found = connections(site.emulator, site.store_url, site.repository.id)["azure_stack_default"]
    with closed_port() as port:
        nobody = f"127.0.0.1:{port}"
        dead = {**found, "host": f"http://{nobody}"}
        monkeypatch.setenv("AIRFLOW_CONN_AZURE_STACK_DEFAULT", json.dumps(dead))
        began = time.monotonic()
        ended = site.run(site.dag("nobody_there"))
    assert time.monotonic() - began < 100.0  # seconds, on a machine with other work as well
    assert ended.state == "failed"
    assert ended.of("discover") == ["failed"]
    assert ended.of("clean_up") == ["success"]
    assert f"connection to {nobody} failed" in capfd.readouterr().out
    assert site.reopen().sessions() == {}


def test_the_connections_subscription_is_asked_where_the_policy_names_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another subscription that the client can see as well is not backed up by accident."""
    add_vm(site, "a")
    other = "00000000-0000-0000-0000-000000000001"
    fields = connections(site.emulator, site.store_url, site.repository.id)["azure_stack_default"]
    fields["extra"]["subscription_id"] = other
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_STACK_DEFAULT", json.dumps(fields))
    assert site.run(site.dag("other-subscription")).of("discover") == ["failed"]
    named = {"subscriptions": [site.emulator.subscription_id]}
    assert site.run(site.dag("named-subscription", selection=named)).state == "success"


def test_a_host_without_work_is_skipped_and_the_run_is_good(site: Site) -> None:
    """F-A9: one host gets nothing: its streams are skipped, ``complete`` decides all the same."""
    add_vm(site, "only")
    run = site.run(site.dag("one-vm"))
    assert run.state == "success"
    states = sorted((*run.of("one.workloads.stream"), *run.of("two.workloads.stream")))
    assert states == ["skipped", "success"]


def test_a_trigger_may_narrow_hosts_and_vms(site: Site) -> None:
    """The other host takes no part; VMs that were not asked for are not touched."""
    add_vm(site, "web-1"), add_vm(site, "db-1")
    conf = {"hosts": ["two"], "vms": ["web-*"], "mode": "full", "compression": "fast"}
    run = site.run(site.dag("narrowed", compression="small"), conf)
    assert run.state == "success"
    assert run.of("one.accept_manifest") == ["skipped"]
    assert run.of("two.workloads.stream") == ["success"]
    assert published(site) == ["web-1"]
    assert [record.job.compression for record in site.reopen().jobs()] == ["fast"]


def test_an_unknown_key_is_refused_before_anything_is_touched(site: Site) -> None:
    """Issue 4 of a trigger: undeclared keys pass Airflow's own check; ours names them."""
    add_vm(site, "a")
    run = site.run(site.dag("unknown-key"), {"virtual_machines": ["a"]})
    assert run.state == "failed"
    assert run.of("open_session") == ["failed"]
    assert site.emulator.requests == []
    assert list(site.reopen().store.list("sessions/")) == []


def test_work_of_a_host_that_left_the_dag_is_missed_loudly(site: Site) -> None:
    """F-W8: a host was removed between discovery and its streams: the run fails, naming the VM."""
    add_vm(site, "a"), add_vm(site, "b")
    source = SOURCE + (
        "from airflow_provider_azstack.config import BackupHost\n"
        "gone = BackupHost(name='gone', streams=4, queue='gone', executor=None)\n"
        "discover = dag.get_task('discover')\n"
        "discover.hosts = (discover.hosts[0], gone)\n"
    )
    run = site.run(site.dag("host-left", source))
    assert run.state == "failed"
    assert len(published(site)) == 1
    (record,) = site.reopen().jobs()
    assert [vm.host for vm in record.vms if vm.status == "failed"] == ["gone"]


def test_what_a_killed_run_left_does_not_stop_the_next_one(site: Site) -> None:
    """R3: a run that died with its clean-up leaves a session and claims; nobody unlocks them."""
    vm = add_vm(site, "a")
    repository = site.reopen()
    killed = repository.open_session("backup of 127.0.0.1 by again", run="again-killed")
    killed.claim(vm.vm_id)
    others = repository.open_session("backup of 127.0.0.1 by another", run="another-living")
    assert site.run(site.dag("again")).state == "success"
    assert published(site) == ["a"]
    assert set(site.reopen().sessions()) == {others.id}


def test_runs_at_the_same_time_do_not_fence_each_other(site: Site) -> None:
    """Where a DAG may have several active runs, a session may be another's: it is left alone."""
    add_vm(site, "a")
    other = site.reopen().open_session("backup of 127.0.0.1 by several", run="several-other")
    source = SOURCE.replace("config={conf!r}", "config={conf!r}, max_active_runs=2")
    assert site.run(site.dag("several", source)).state == "success"
    assert set(site.reopen().sessions()) == {other.id}


def test_marking_streams_successful_by_hand_makes_no_restore_point(site: Site) -> None:
    """F-A7: ``complete`` believes the repository, not the states of tasks."""
    add_vm(site, "a")
    dag = site.dag("marked")
    run = dag.test(mark_success_pattern=r".*workloads\..*")
    assert str(run.state) == "failed"
    assert published(site) == []


def test_a_missing_pool_stops_the_host_before_its_streams(site: Site) -> None:
    """A stream in a missing pool would wait for ever: the host says what to do instead."""
    add_vm(site, "a")
    dag = site.dag("no-pool")
    site.configure({"one": {"NO_OF_BACKUP_STREAMS_PER_NODE": 9}, "two": {}})
    run = site.run(dag)
    assert run.state == "failed"
    assert run.of("one.accept_manifest") == ["failed"]
    assert run.of("one.workloads.stream") == ["upstream_failed"]
    assert site.emulator.leftovers() == []


def test_each_restore_point_is_an_asset_event(site: Site) -> None:
    """Other DAGs start on it; the event says which point, how big, and how long it took."""
    vm = add_vm(site, "odd_name.1")
    assert site.run(site.dag("events")).state == "success"
    (extra,) = asset_events(f"azstack://127.0.0.1/{vm.name}")
    (point,) = site.reopen().points()
    assert (extra["point"], extra["key"]) == (point.id, vm.vm_id)
    assert extra["disk_bytes"] == 4 * MIB


def test_a_stream_whose_success_was_not_heard_of_is_repeated_without_harm(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """F-A3, F-A6: the second copy of a stream finds its images: one point, no disk read again."""
    vm = add_vm(site, "a")
    source = SOURCE + (
        "from airflow_provider_azstack.operators.backup import Stream\n"
        "class Repeated(Stream):\n"
        "    def execute(self, context):\n"
        "        super().execute(context)\n"
        "        super().execute(context)\n"
        "for host in ('one', 'two'):\n"
        "    dag.get_task(host + '.workloads.stream').__class__ = Repeated\n"
    )
    assert site.run(site.dag("repeated", source)).state == "success"
    assert "is there already" in caplog.text
    (point,) = site.reopen().points()
    assert len(list(site.reopen().images(point.run, vm.vm_id))) == 1
    assert content(site, vm) == [vm.disks[0].read(0, 4 * MIB)]
