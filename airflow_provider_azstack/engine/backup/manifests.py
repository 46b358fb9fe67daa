"""
Manifests between tasks: small ones travel in XCom, big ones through the repository.

Owns the decision and the way back; knows no Airflow. Invariant: whichever way a manifest went, what
comes out at the other end is the manifest that went in.
"""

from collections.abc import Iterable

import msgspec

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Manifest, Workload, WorkloadVm, to_json
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

MAX_XCOM_BYTES = 1_000_000


def spill(session: Session, manifest: Manifest, *, limit_bytes: int = MAX_XCOM_BYTES) -> Manifest:
    """Return the manifest itself or, when it is big, one that says where its VMs are."""
    if len(to_json(manifest)) <= limit_bytes:
        return manifest
    name = session.put_manifest(manifest)
    workloads = tuple(
        msgspec.structs.replace(workload, vms=(), manifest=name) for workload in manifest.workloads
    )
    return msgspec.structs.replace(manifest, workloads=workloads)


def workload_vms(repository: Repository, workload: Workload) -> tuple[WorkloadVm, ...]:
    """
    Return the VMs of a workload, from wherever they are.

    :raises ConfigurationError: the manifest it names is of another run, host or workload.
    """
    if not workload.manifest:
        return workload.vms
    whole = _read(repository, workload)
    for candidate in whole.workloads:
        if candidate.number == workload.number:
            return candidate.vms
    raise ConfigurationError(f"{workload.manifest} has no workload {workload.number}")


def gathered(repository: Repository, manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Return manifests with their VMs, read back where they were spilled."""
    whole = []
    for manifest in manifests:
        spilled = [workload for workload in manifest.workloads if workload.manifest]
        whole.append(_read(repository, spilled[0]) if spilled else manifest)
    return tuple(whole)


def _read(repository: Repository, workload: Workload) -> Manifest:
    manifest = repository.manifest(workload.manifest)
    if manifest.job != workload.job or manifest.host != workload.host:
        raise ConfigurationError(
            f"{workload.manifest} is of run {manifest.job.run} and host {manifest.host}, "
            f"not of {workload.job.run} and {workload.host}: start the run again"
        )
    return manifest
