"""
Clean up after a run, whatever became of it.

Owns what of a run's traces goes and what stays; works from the stack and the repository, because
the run's tasks may have left nothing else. Invariants: a reference snapshot goes only after a newer
point of its VM is published, which then has its own; everything is tried, and doing it again is
harmless.

In order: VMs that were stopped and not started again are started; then, for each VM of the run,
grants are revoked and the snapshots of this session and superseded references are deleted; the
session is closed last.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine import leftovers, names, power
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.backup.manifests import gathered
from airflow_provider_azstack.engine.leftovers import Leftover, Sweep
from airflow_provider_azstack.engine.machines import id_part
from airflow_provider_azstack.errors import AzStackError, SessionLost, SourceError
from airflow_provider_azstack.model import Manifest, SnapshotSet, WorkloadVm
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.speed import counted

log = logging.getLogger(__name__)

THREADS = 8  # VMs at once: to delete a snapshot takes seconds, nearly all of them waiting


def clean_up(
    stack: Stack,
    repository: Repository,
    *,
    run: str,
    session_id: str,
    manifests: Iterable[Manifest] = (),
) -> int:
    """
    Remove what a run left and nobody needs; return how many snapshots went.

    :raises SourceError: something could not be removed; all the rest was. The janitor will try.
    """
    vms: dict[str, WorkloadVm] = {}
    errors: list[str] = []
    try:
        vms = _vms(repository, manifests)
    except AzStackError as error:  # a manifest that cannot be read must not keep the session open
        errors.append(str(error))
    with Accounts(stack, (id_part(vm.id, "subscriptions") for vm in vms.values())) as accounts:
        sweep = Sweep(stack, accounts, repository.id)
        for vm_sets in _sets(repository, run, session_id, sweep).values():
            sweep.do(vm_sets[0].vm.id, power.undo, stack, repository, vm_sets)
        ours = _found(vms, sweep)
        living = repository.sessions().keys() - {session_id}

        def removed(key: str) -> int:
            idle = [leftover for leftover in ours[key] if leftover.owner.session not in living]
            return _delete(leftovers.references(repository, key), idle, sweep)

        deleted = sum(in_parallel(removed, ours, THREADS))
        sweep.do(f"session {session_id}", _close, repository, session_id)
    if errors := [*errors, *sweep.errors]:
        raise SourceError(
            f"clean-up of run {run}: {counted(len(errors), 'thing')} failed, "
            f"the janitor will try again: {'; '.join(errors[:5])}"
        )
    return deleted


def _vms(repository: Repository, manifests: Iterable[Manifest]) -> dict[str, WorkloadVm]:
    return {
        vm.key: vm
        for manifest in gathered(repository, manifests)
        for workload in manifest.workloads
        for vm in workload.vms
    }


def _sets(
    repository: Repository, run: str, session_id: str, sweep: Sweep
) -> dict[str, list[SnapshotSet]]:
    read: list[SnapshotSet] = []
    sweep.do(f"snapshot sets of {run}", read.extend, repository.sets(run))
    found: dict[str, list[SnapshotSet]] = defaultdict(list)
    for snapshot_set in read:
        if names.is_of_session(snapshot_set.id, session_id):
            found[snapshot_set.vm.key].append(snapshot_set)
    return found


def _found(vms: Mapping[str, WorkloadVm], sweep: Sweep) -> dict[str, list[Leftover]]:
    """Return, by VM of the run, this repository's snapshots wherever it may have some."""
    subscriptions = {id_part(vm.id, "subscriptions").lower() for vm in vms.values()}
    seen = [leftover for name in sorted(subscriptions) for leftover in sweep.managed(name)]
    disks = (disk for vm in vms.values() for disk in vm.disks)
    seen += sweep.unmanaged(disk.source for disk in disks if disk.kind == "unmanaged")
    found: dict[str, list[Leftover]] = defaultdict(list)
    for leftover in seen:
        if leftover.owner.vm_key in vms:
            found[leftover.owner.vm_key].append(leftover)
    return found


def _delete(needed: set[tuple[str, str]] | None, idle: Iterable[Leftover], sweep: Sweep) -> int:
    """Delete what is not needed, end access to what is; return how many were deleted."""
    deleted = 0
    for leftover in idle:
        if needed is not None and leftover.place not in needed:
            deleted += sweep.delete(leftover)
        elif leftover.is_granted:
            sweep.revoke(leftover)
    return deleted


def _close(repository: Repository, session_id: str) -> None:
    try:
        repository.join_session(session_id).close()
    except SessionLost:
        log.info("session %s was closed already", session_id)
