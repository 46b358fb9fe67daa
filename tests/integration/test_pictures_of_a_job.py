"""The timeline of a real job: two hosts, streams at once, one disk in parts."""

from collections import Counter
from datetime import UTC
from random import Random

import pytest
from support.compound import Rig
from support.fleets import host
from support.hosts import snapshot_at_once, stream_at_once

from airflow_provider_azstack.console.pictures import charts
from airflow_provider_azstack.console.pictures.facts import Wanted, gather
from airflow_provider_azstack.console.pictures.page import page
from airflow_provider_azstack.emulator import DiskSpec
from airflow_provider_azstack.engine.backup.manifests import workload_vms
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier2

MIB = 1 << 20


def test_each_part_is_on_the_host_that_read_it(it: Rig) -> None:
    """By the records alone, after completion joined the parts and cleaned up."""
    it.hosts, it.split_bytes = (host("a", 2), host("b", 2)), REGION_BYTES
    sizes = (4 * MIB, 2 * REGION_BYTES + 8 * MIB)
    machine = it.emulator.add_vm("big", "prod", [DiskSpec(size_bytes=size) for size in sizes])
    for disk in machine.disks:
        disk.write(0, Random(1).randbytes(MIB))
    run = it.begin()
    assert snapshot_at_once(it, run) == []
    assert stream_at_once(it, run) == []
    run.complete()
    run.clean_up()
    facts = gather(it.repository, Wanted(zone=UTC))
    assert facts.timeline is not None
    stretches = facts.timeline.stretches
    assert Counter(one.disk for one in stretches) == {
        "os": 1,
        "data-0 (0 to 0.268 GB)": 1,
        "data-0 (0.268 to 0.537 GB)": 1,
        "data-0 (0.537 to 0.545 GB)": 1,
    }
    given = {
        (piece.host, disk.key, disk.part)
        for piece in run.workloads
        for vm in workload_vms(it.repository, piece)
        for disk in vm.streamed
    }
    found = Counter(one.host for one in stretches)
    assert found == Counter(host for host, _, _ in given)
    assert found.keys() == {"a", "b"}
    assert facts.timeline.untimed == 0
    drawn = charts.gantt(facts.timeline, UTC)
    assert drawn is not None
    assert [shown.name for shown in drawn.hosts] == ["a", "b"]
    assert "big data-0 (0.268 to 0.537 GB)" in page(facts, "UTC")
