"""The probe tells each way in which stacks differ, and leaves nothing behind whatever it meets."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.stacks import stack_of

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.probe import NAME, Finding, probe_disks
from airflow_provider_azstack.arm.probe_blobs import BlobTrial, blobs_of
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.emulator.faults import Fault, flipped_bit
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.errors import ConfigurationError

pytestmark = pytest.mark.tier1


@pytest.fixture
def stack(emulator: Emulator) -> Iterator[Stack]:
    emulator.add_group("scratch")
    emulator.add_storage_account("staging", "scratch")
    with stack_of(emulator, sleep=lambda _: None) as made:
        yield made
        assert emulator.leftovers() == []
        assert [key for key in emulator.world.blobs if key[2].startswith(NAME)] == []
        assert list(emulator.world.of_type("Microsoft.Compute/disks")) == []


def group(emulator: Emulator) -> str:
    return f"/subscriptions/{emulator.subscription_id}/resourceGroups/scratch"


def blobs(emulator: Emulator, stack: Stack) -> BlobTrial:
    return blobs_of(stack, emulator.subscription_id, "staging")


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {f.question: f.verdict for f in findings if f.verdict != "ok"}


@pytest.mark.parametrize(
    ("trait", "value", "told"),
    [
        ("upload", True, {}),
        ("second_grant", "allowed", {}),
        ("disk_checksums", False, {}),
        ("managed_differences", "ignored", {"differences of managed disks": "warning"}),
        ("managed_differences", "refused", {"differences of managed disks": "warning"}),
        ("upload", False, {"direct upload": "warning", "create a managed disk": "failed"}),
    ],
)
def test_what_differs_with_managed_disks_is_told(
    emulator: Emulator, stack: Stack, trait: str, value: Any, told: dict[str, str]
) -> None:
    setattr(emulator.behaviour, trait, value)
    assert verdicts(list(probe_disks(stack, group(emulator)))) == told


def test_where_uploads_are_refused_a_disk_is_imported(emulator: Emulator, stack: Stack) -> None:
    emulator.behaviour.upload = False
    trial = blobs(emulator, stack)
    findings = list(probe_disks(stack, group(emulator), trial.staging()))
    assert verdicts(findings) == {"direct upload": "warning"}
    assert next(f for f in findings if f.question == "import").verdict == "ok"
    assert "storage_account" in findings[0].finding
    assert list(trial.takes_away()) == []


@pytest.mark.parametrize(
    ("trait", "value", "told"),
    [
        ("blob_differences", "supported", {}),
        ("blob_differences", "ignored", {"differences of blobs": "warning"}),
        ("blob_differences", "refused", {"differences of blobs": "warning"}),
        ("sequence_numbers", False, {"sequence numbers": "warning"}),
        ("copy_from_url", False, {"copy a blob": "warning"}),
        ("copies_fail", True, {"copy a blob": "warning"}),
    ],
)
def test_what_differs_with_blobs_is_told(
    emulator: Emulator, stack: Stack, trait: str, value: Any, told: dict[str, str]
) -> None:
    setattr(emulator.behaviour, trait, value)
    assert verdicts(list(blobs(emulator, stack).probe())) == told


def without_clears(_: Call, answer: Answer) -> Answer:
    body = bytes(answer.body)  # type: ignore[arg-type]
    while b"<ClearRange>" in body:
        head, _, rest = body.partition(b"<ClearRange>")
        body = head + rest.partition(b"</ClearRange>")[2]
    answer.body = body
    return answer


def test_a_difference_that_leaves_cleared_pages_out_fails(emulator: Emulator, stack: Stack) -> None:
    """No false reference shows that: what was cleared would come back in a restore."""
    emulator.faults.add(Fault("GET", "prevsnapshot=", alter=without_clears, times=99))
    findings = list(blobs(emulator, stack).probe())
    assert verdicts(findings) == {"differences of blobs": "failed"}


def test_bytes_that_come_back_wrong_fail(emulator: Emulator, stack: Stack) -> None:
    emulator.faults.alter_reads(flipped_bit, times=999)
    assert verdicts(list(probe_disks(stack, group(emulator))))["read a snapshot"] == "failed"


@pytest.mark.parametrize(
    ("denied", "question"),
    [
        ("Microsoft.Compute/disks/write", "create a managed disk"),
        ("Microsoft.Compute/snapshots/write", "snapshot a managed disk"),
        ("Microsoft.Compute/snapshots/beginGetAccess/action", "read a snapshot"),
    ],
)
def test_a_missing_permission_is_a_finding_and_nothing_stays(
    emulator: Emulator, stack: Stack, denied: str, question: str
) -> None:
    emulator.behaviour.denied = {denied}
    findings = list(probe_disks(stack, group(emulator)))
    told = next(f for f in findings if f.question == question)
    assert (told.verdict, denied in told.finding) == ("failed", True)


def test_what_cannot_be_deleted_is_named(emulator: Emulator, stack: Stack) -> None:
    emulator.behaviour.denied = {"Microsoft.Compute/disks/delete"}
    left = list(probe_disks(stack, group(emulator)))[-1]
    assert (left.question, left.verdict) == ("clean up", "warning")
    emulator.behaviour.denied = set()
    (disk,) = emulator.world.of_type("Microsoft.Compute/disks")
    assert disk.id in left.finding
    stack.delete(disk.id)


def test_a_container_or_an_account_that_is_missing_is_named(
    emulator: Emulator, stack: Stack
) -> None:
    with pytest.raises(ConfigurationError, match="no storage account other"):
        blobs_of(stack, emulator.subscription_id, "other")
    emulator.world.containers.clear()
    (told,) = blobs(emulator, stack).probe()
    assert told.verdict == "failed"
    assert "create the container 'vhds'" in told.finding
