"""Manifests come out as they went in, whichever way they went."""

import msgspec
import pytest
from support.disks import new_repository

from airflow_provider_azstack.engine.backup.manifests import gathered, spill, workload_vms
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    Job,
    Manifest,
    Workload,
    WorkloadDisk,
    WorkloadVm,
    from_plain,
    to_json,
    to_plain,
)
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

GUID = "00000000-0000-0000-0000-{:012d}"


def manifest(session: Session, count: int = 6) -> Manifest:
    job = Job(run="run-1", session=session.id, policy="p", stack="stack.example")
    disk = WorkloadDisk(
        key="os", kind="managed", source="/d", size_bytes=1, unique_id="u", expected_bytes=1
    )
    vms = [
        WorkloadVm(id=f"/vms/{n}", key=GUID.format(n), name=f"vm{n}", disks=(disk,))
        for n in range(count)
    ]
    workloads = tuple(
        Workload(job=job, host="a", number=n, label="a", expected_bytes=1, vms=tuple(vms[n::2]))
        for n in range(2)
    )
    return Manifest(job=job, host="a", workloads=workloads)


@pytest.fixture
def session() -> Session:
    return new_repository().open_session("backup", run="run-1")


@pytest.mark.parametrize("limit_bytes", [10**6, 100])
def test_a_manifest_is_the_same_after_its_way(session: Session, limit_bytes: int) -> None:
    """F-A12: one that is too big for XCom goes through the repository."""
    whole = manifest(session)
    sent = spill(session, whole, limit_bytes=limit_bytes)
    assert (len(to_json(sent)) < len(to_json(whole))) is (limit_bytes == 100)
    arrived = from_plain(Manifest, to_plain(sent), "it")
    assert gathered(session.repository, [arrived]) == (whole,)
    for workload, original in zip(arrived.workloads, whole.workloads, strict=True):
        assert workload_vms(session.repository, workload) == original.vms


def test_the_choice_of_compression_travels_and_none_is_the_standard_one(session: Session) -> None:
    """A manifest of before there was a choice has no such key, and neither has one without."""
    whole = manifest(session)
    job = msgspec.structs.replace(whole.job, compression="small")
    chosen = msgspec.structs.replace(whole, job=job)
    assert from_plain(Manifest, to_plain(chosen), "it").job.compression == "small"
    assert "compression" not in to_plain(whole)["job"]
    assert from_plain(Manifest, to_plain(whole), "it").job.compression == "standard"


def test_a_workload_of_another_run_host_or_number_is_refused(session: Session) -> None:
    sent = spill(session, manifest(session), limit_bytes=100).workloads[0]
    other_run = msgspec.structs.replace(sent, job=msgspec.structs.replace(sent.job, run="run-2"))
    for wrong, said in [
        (other_run, "not of run-2"),
        (msgspec.structs.replace(sent, host="b"), "and b"),
        (msgspec.structs.replace(sent, number=9), "no workload 9"),
    ]:
        with pytest.raises(ConfigurationError, match=said):
            workload_vms(session.repository, wrong)
