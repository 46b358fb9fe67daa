"""Cutting disks for several streams: every byte once, whole regions, within the caps."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleets import host, key_of, machine

from airflow_provider_azstack.engine.backup.distribute import distribute
from airflow_provider_azstack.engine.backup.parts import MAX_PARTS, cut, stretches
from airflow_provider_azstack.model import (
    DiskPart,
    Job,
    VirtualMachine,
    WorkloadDisk,
    WorkloadVm,
)
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier1

GIB = 1 << 30
JOB = Job(run="run-1", session="session-1", policy="nightly", stack="stack.example")
sizes = st.one_of(st.integers(0, 3 * REGION_BYTES + 1), st.integers(0, 1023 * GIB))


def light(disks: list[tuple[int, int]]) -> WorkloadVm:
    """:param disks: size, and how much of it is expected to move."""
    return WorkloadVm(
        id="/vms/1",
        key=key_of(1),
        name="vm",
        disks=tuple(
            WorkloadDisk(
                key="os" if n == 0 else f"data-{n}",
                kind="managed",
                source=f"/disks/{n}",
                size_bytes=size,
                unique_id=f"u{n}",
                expected_bytes=expected,
            )
            for n, (size, expected) in enumerate(disks)
        ),
    )


def covered(pieces: list[WorkloadVm]) -> dict[str, list[DiskPart | None]]:
    """Return what is streamed of each disk, in the disk's order."""
    found = defaultdict(list)
    for piece in pieces:
        for disk in piece.streamed:
            found[disk.key].append(disk.part)
    return {
        key: sorted(parts, key=lambda part: part.first if part else 0)
        for key, parts in found.items()
    }


def assert_every_byte_once(vm: WorkloadVm | VirtualMachine, pieces: list[WorkloadVm]) -> None:
    parts_of = covered(pieces)
    assert set(parts_of) == {disk.key for disk in vm.disks}
    for disk in vm.disks:
        parts = parts_of[disk.key]
        if parts == [None]:
            continue
        assert len(parts) > 1
        borders = [0, *(part.end for part in parts)]
        assert [part.first for part in parts] == borders[:-1], "no gap, no overlap"
        assert borders[-1] == disk.size_bytes
        assert all(part.length > 0 and part.first % REGION_BYTES == 0 for part in parts)


@settings(max_examples=200)
@given(
    st.lists(
        sizes.flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 64 * GIB),
    st.none() | st.integers(1, 8),
)
def test_every_byte_of_every_disk_is_in_exactly_one_piece(
    disks: list[tuple[int, int]], target: int, at_once: int | None
) -> None:
    """Whatever the sizes: nothing is left out, nothing is streamed twice, no disk above its cap."""
    vm = light(disks)
    pieces = list(cut(vm, target, lambda _: at_once))
    assert_every_byte_once(vm, pieces)
    assert [piece.piece for piece in pieces] == list(range(len(pieces)))
    assert {piece.pieces for piece in pieces} == {len(pieces)}
    assert all(piece.streamed for piece in pieces)
    for piece in pieces:
        assert [d.unique_id for d in piece.disks] == [d.unique_id for d in vm.disks]
        assert all(disk.expected_bytes == 0 for disk in piece.disks if disk.key in piece.elsewhere)
    assert all(len(parts) <= (at_once or MAX_PARTS) for parts in covered(pieces).values())
    moved = sum(disk.expected_bytes for piece in pieces for disk in piece.disks)
    assert moved == sum(expected for _, expected in disks)


def test_a_disk_goes_into_equal_parts_and_small_ones_stay_together() -> None:
    vm = light([(4 * GIB, 4 * GIB), (100 * GIB, 100 * GIB), (3 * GIB, 3 * GIB), (GIB, GIB)])
    pieces = cut(vm, 30 * GIB, lambda _: None)
    streamed = [[(disk.key, disk.part) for disk in piece.streamed] for piece in pieces]
    quarters = [DiskPart(n * 25 * GIB, (n + 1) * 25 * GIB) for n in range(4)]
    assert streamed == [
        [("os", None), ("data-1", quarters[0])],
        [("data-1", quarters[1])],
        [("data-1", quarters[2])],
        [("data-1", quarters[3]), ("data-2", None), ("data-3", None)],
    ]
    assert pieces[1].elsewhere == ("os", "data-2", "data-3")


def test_a_disk_of_few_regions_has_few_parts() -> None:
    assert stretches(2 * REGION_BYTES + 5, 9) == (
        DiskPart(0, REGION_BYTES),
        DiskPart(REGION_BYTES, 2 * REGION_BYTES),
        DiskPart(2 * REGION_BYTES, 2 * REGION_BYTES + 5),
    )
    assert len(cut(light([(REGION_BYTES, REGION_BYTES)]), 1, lambda _: None)) == 1


def test_an_idle_terabyte_is_not_cut() -> None:
    """What counts is what will move: a disk that changes little is listed in seconds."""
    vm = machine(1, [1023 * GIB])
    hosts = [host("a"), host("b")]
    idle = distribute(JOB, [vm], hosts, history={vm.key: GIB}, split_bytes=8 * GIB)
    assert sum(len(m.workloads) for m in idle) == 1
    busy = distribute(JOB, [vm], hosts, split_bytes=8 * GIB)
    assert [len(m.workloads) for m in busy] == [16, 16]
    labels = [workload.label for m in busy for workload in m.workloads]
    assert "a / vm1 1/32" in labels


def test_one_stream_shares_with_nobody_and_a_full_fleet_is_not_cut() -> None:
    """Parts cost tasks: only what would hold the run up is cut."""
    one = [host("a", 1)]
    manifests = distribute(JOB, [machine(1, [500 * GIB])], one, split_bytes=GIB)
    assert [vm.pieces for m in manifests for w in m.workloads for vm in w.vms] == [1]
    fleet = [machine(n, [100 * GIB]) for n in range(500)]
    two = [host("a"), host("b")]
    manifests = distribute(JOB, fleet, two, split_bytes=GIB)
    assert {vm.pieces for m in manifests for w in m.workloads for vm in w.vms} == {1}


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(sizes, min_size=1, max_size=4), st.sampled_from(["", "acc1", "acc2"])),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 5),
    st.integers(1, 64 * GIB),
)
def test_the_caps_hold_with_parts_and_nothing_is_lost(
    fleet: list[tuple[list[int], str]],
    streams: list[int],
    account_cap: int | None,
    stack_cap: int | None,
    split_bytes: int,
) -> None:
    """Parts are workloads like others: an account, the stack and a disk have no more at once."""
    vms = [machine(n, disks, account) for n, (disks, account) in enumerate(fleet)]
    hosts = [host(f"h{n}", count) for n, count in enumerate(streams)]
    manifests = distribute(
        JOB,
        vms,
        hosts,
        account_cap=account_cap,
        stack_cap=stack_cap,
        split_bytes=split_bytes,
        at_once=lambda _: 3,
    )
    workloads = [workload for manifest in manifests for workload in manifest.workloads]
    pieces = defaultdict(list)
    for workload in workloads:
        for vm in workload.vms:
            pieces[vm.key].append(vm)
    for vm in vms:
        assert_every_byte_once(vm, pieces[vm.key])
        assert all(len(parts) <= 3 for parts in covered(pieces[vm.key]).values())
    of_host = {host.name: host.streams for host in hosts}
    at_once = sum(min(of_host[m.host], len(m.workloads)) for m in manifests)
    assert at_once <= (stack_cap or at_once)
    accounts = {vm.key: account for vm, (_, account) in zip(vms, fleet, strict=True)}
    for account in {"acc1", "acc2"} & set(accounts.values()):
        having = [w for w in workloads if any(accounts[vm.key] == account for vm in w.vms)]
        assert len(having) <= (account_cap or len(having))
