"""Sharing out the work: complete, deterministic, balanced, and within the caps."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleets import host, key_of, machine

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.engine.backup.distribute import (
    DISK_COST_BYTES,
    MAX_WORKLOADS,
    distribute,
)
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    Job,
    Manifest,
    VirtualMachine,
    to_json,
)

pytestmark = pytest.mark.tier1

GIB = 1 << 30
JOB = Job(run="run-1", session="session-1", policy="nightly", stack="stack.example")


def keys(manifests: tuple[Manifest, ...]) -> Counter[str]:
    return Counter(vm.key for m in manifests for w in m.workloads for vm in w.vms)


def load(manifest: Manifest) -> int:
    return sum(
        disk.expected_bytes + DISK_COST_BYTES
        for workload in manifest.workloads
        for vm in workload.vms
        for disk in vm.disks
    )


machines = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1023 * GIB), min_size=1, max_size=5),
        st.sampled_from(["", "", "acc1", "acc2", "acc3", "acc1+acc2", "acc3+acc4"]),
    ),
    max_size=60,
).map(lambda items: [machine(n, sizes, acc) for n, (sizes, acc) in enumerate(items)])
hosts_of = st.lists(st.integers(1, 8), min_size=1, max_size=5).map(
    lambda streams: [host(f"h{n}", s) for n, s in enumerate(streams)]
)
caps = st.none() | st.integers(1, 12)


@settings(max_examples=80)
@given(machines, hosts_of, caps, caps, st.randoms(use_true_random=False))
def test_every_vm_once_within_the_caps_whatever_the_order(
    vms: list[VirtualMachine],
    hosts: list[BackupHost],
    account_cap: int | None,
    stack_cap: int | None,
    rng: random.Random,
) -> None:
    """Every VM is in exactly one workload, the caps hold, and the input's order does not count."""

    def run() -> tuple[Manifest, ...]:
        return distribute(JOB, vms, hosts, account_cap=account_cap, stack_cap=stack_cap)

    manifests = run()
    assert keys(manifests) == Counter(vm.key for vm in vms)
    assert [m.host for m in manifests] == sorted(h.name for h in hosts)
    streams = {h.name: h.streams for h in hosts}
    at_once = sum(min(streams[m.host], len(m.workloads)) for m in manifests)
    assert at_once <= (stack_cap or at_once)
    accounts = {vm.key: {disk.storage_account for disk in vm.disks} - {""} for vm in vms}
    used: Counter[str] = Counter()
    for workload in (w for m in manifests for w in m.workloads):
        used.update(set().union(*(accounts[vm.key] for vm in workload.vms)))
    assert all(count <= (account_cap or count) for count in used.values())
    rng.shuffle(vms)
    rng.shuffle(hosts)
    assert [to_json(m) for m in run()] == [to_json(m) for m in manifests]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 100 * GIB), min_size=1, max_size=80), hosts_of)
def test_hosts_are_done_at_about_the_same_time(sizes: list[int], hosts: list[BackupHost]) -> None:
    """No host is later than the average by more than the biggest single workload takes it."""
    manifests = distribute(JOB, [machine(n, [s]) for n, s in enumerate(sizes)], hosts)
    streams = {h.name: h.streams for h in hosts}
    average = sum(map(load, manifests)) / sum(streams.values())
    biggest = max(
        sum(d.expected_bytes + DISK_COST_BYTES for vm in w.vms for d in vm.disks)
        for m in manifests
        for w in m.workloads
    )
    for manifest in manifests:
        assert load(manifest) / streams[manifest.host] <= average + biggest


def test_a_big_vm_is_alone_and_small_ones_are_batched() -> None:
    vms = [machine(0, [900 * GIB]), *(machine(n, [GIB]) for n in range(1, 201))]
    workloads = [w for m in distribute(JOB, vms, [host("a"), host("b")]) for w in m.workloads]
    alone = [w for w in workloads if any(vm.name == "vm0" for vm in w.vms)]
    assert [len(w.vms) for w in alone] == [1]
    assert alone[0].label.endswith(" / vm0")
    assert alone[0].number == 0, "the longest is begun first"
    assert len(workloads) < 50
    assert any(" VMs" in w.label for w in workloads)


def test_a_few_vms_are_not_batched_while_streams_would_be_idle() -> None:
    vms = [machine(n, [GIB]) for n in range(4)]
    manifests = distribute(JOB, vms, [host("a", 2), host("b", 2)])
    assert [len(m.workloads) for m in manifests] == [2, 2]


def test_tiny_vms_share_workloads_once_each_stream_has_one() -> None:
    """Sixty-four idle VMs are no hundred and twenty-eight tasks."""
    vms = [machine(n, [GIB]) for n in range(64)]
    idle = {vm.key: 1 << 20 for vm in vms}
    manifests = distribute(JOB, vms, [host("a"), host("b")], history=idle)
    assert {m.host: len(m.workloads) for m in manifests} == {"a": 11, "b": 11}


def test_what_earlier_jobs_moved_counts_instead_of_sizes() -> None:
    """An idle terabyte weighs less than a busy gigabyte."""
    vms = [machine(0, [1000 * GIB]), machine(1, [2 * GIB]), machine(2, [2 * GIB])]
    known = {vms[0].key: 1 << 20}
    manifests = distribute(JOB, vms, [host("a", 1), host("b", 1)], history=known)
    assert sorted(sum(len(w.vms) for w in m.workloads) for m in manifests) == [1, 2]
    expected = {
        vm.key: vm.disks[0].expected_bytes for m in manifests for w in m.workloads for vm in w.vms
    }
    assert expected[vms[0].key] == 1 << 20
    assert expected[vms[1].key] == 2 * GIB


def test_who_has_waited_goes_first_and_not_with_others() -> None:
    vms = [machine(n, [n * GIB]) for n in range(1, 21)]
    waiting = {vms[16].key: 0, vms[2].key: 1, vms[3].key: 2, key_of(99): 3}
    manifests = distribute(
        JOB, vms, [host("a", 2), host("b", 1)], waiting=waiting, batch_bytes=8 * GIB
    )
    assert keys(manifests) == Counter(vm.key for vm in vms)
    for manifest in manifests:
        kinds = [{vm.key in waiting for vm in workload.vms} for workload in manifest.workloads]
        assert kinds == sorted(kinds, key=max, reverse=True), "they have the lower numbers"
        assert all(len(kind) == 1 for kind in kinds)
    first = {vm.key for m in manifests for vm in m.workloads[0].vms}
    assert vms[16].key in first, "who waits longest is begun at once"


def test_no_host_is_an_error_and_no_vm_is_not() -> None:
    """F-W8: work is never dropped for want of a host; F-A9: a host may get nothing."""
    with pytest.raises(ConfigurationError, match="no backup host"):
        distribute(JOB, [machine(1, [GIB])], [])
    assert [m.workloads for m in distribute(JOB, [], [host("a"), host("b")])] == [(), ()]


def test_ten_thousand_vms_fit_the_limits_in_seconds() -> None:
    """10,000 VMs with 30,000 disks in under 5 s; no host has more workloads than may be mapped."""
    rng = random.Random(7)
    vms = [
        machine(
            n, [rng.randrange(GIB, 900 * GIB) for _ in range(3)], f"acc{n % 50}" if n % 2 else ""
        )
        for n in range(10_000)
    ]
    hosts = [host(f"h{n}", 8) for n in range(6)]
    began = time.process_time()
    manifests = distribute(JOB, vms, hosts, account_cap=6)
    assert time.process_time() - began < 5
    assert keys(manifests) == Counter(vm.key for vm in vms)
    assert max(len(m.workloads) for m in manifests) <= MAX_WORKLOADS
    alone = distribute(JOB, vms, [host("only", 2)])
    assert len(alone[0].workloads) == MAX_WORKLOADS
