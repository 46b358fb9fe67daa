"""Bandwidth limits where bytes move: a restore, a backup in Airflow, a stream that is stopped."""

import threading
import time
from pathlib import Path

import pytest
from support.airflow_run import Site
from support.compound import Rig
from support.restores import digests, plan

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.engine.pace import BURST_SECONDS, Limit, Pace
from airflow_provider_azstack.engine.restore.disks import write_disks
from airflow_provider_azstack.engine.restore.execute import opened
from airflow_provider_azstack.engine.restore.records import each_disk
from airflow_provider_azstack.errors import Cancelled

pytestmark = pytest.mark.tier2

MB, MIB = 1_000_000, 1 << 20


def test_a_restore_writes_within_its_hosts_limit(it: Rig, tmp_path: Path) -> None:
    vm = it.emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=8 * MIB)])
    vm.disks[0].write(0, bytes(range(1, 256)) * (4 * MIB // 255))
    it.backup()
    it.emulator.add_group("target")
    made = plan(it, vms=["vm"], mode="alternate", resource_group="target")
    session = it.repository.open_session("restore", run=made.id)
    pace = Pace([Limit("a", 4 * MB)], directory=tmp_path / "pace")
    began = time.monotonic()
    with opened(it.stack, session, made, lambda _: None) as work:
        assert write_disks(work._replace(pace=pace), list(each_disk(made))) == []
    seconds = time.monotonic() - began
    session.close()
    assert seconds >= 4 * MIB / (4 * MB) - BURST_SECONDS
    assert set(digests(it.emulator, made).values()) == {vm.disks[0].sha256()}


def test_a_stream_that_waits_for_bandwidth_stops_when_it_is_told_to(
    it: Rig, tmp_path: Path
) -> None:
    """F-L3."""
    vm = it.emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=64 * MIB)])
    vm.disks[0].write(0, bytes(range(1, 256)) * (60 * MIB // 255))
    run = it.begin()
    run.snapshot()
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    pace = Pace([Limit("a", 100_000)], directory=tmp_path / "pace")
    began = time.monotonic()
    (workload,) = run.workloads
    with pytest.raises(Cancelled):
        stream_workload(it.stack, run.session, workload, cancel=cancel, pace=pace)
    assert time.monotonic() - began < 60, "all of it would have taken ten minutes"
    run.complete()
    run.clean_up()
    assert it.emulator.leftovers() == []


def test_the_streams_of_a_dag_keep_the_limits_of_host_and_policy(
    tls_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two hosts may move 2 MB/s, but the policy only 2 over both of them."""
    monkeypatch.setenv("AZSTACK_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("web-1", "web-2"):
        vm = tls_emulator.add_vm(name, "web", [DiskSpec(size_bytes=4 * MIB)])
        vm.disks[0].write(0, bytes(range(1, 256)) * (2 * MIB // 255))
    site = Site(tls_emulator, tmp_path, monkeypatch)
    site.configure({"one": {}, "two": {}}, limit_mb_per_second=2)
    assert site.run(site.dag("limited", limit_mb_per_second=2)).state == "success"
    (record,) = site.reopen().jobs()
    assert {vm.host for vm in record.vms} == {"one", "two"}
    for vm in record.vms:
        assert vm.seconds >= vm.read_bytes / MB - BURST_SECONDS, "its host's share: 1 MB/s"
    kept = {file.name for file in (tmp_path / "run").iterdir()}
    assert kept == {"one.pace", "two.pace", "one%2Fall.pace", "two%2Fall.pace"}
