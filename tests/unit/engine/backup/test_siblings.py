"""Which VMs were made of the same image, as far as the stack says."""

from datetime import UTC, datetime
from random import Random

import pytest
from msgspec.structs import replace
from support.fleets import host, key_of, machine

from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.engine.backup.siblings import siblings
from airflow_provider_azstack.engine.machines import outline
from airflow_provider_azstack.model import Job, VirtualMachine
from airflow_provider_azstack.policy import Policy

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEBIAN, WINDOWS = "debian:debian-12:12", "/images/windows"


def made_of(number: int, image: str) -> VirtualMachine:
    return replace(machine(number, [1 << 30]), image=image)


def test_those_made_of_one_image_have_one_sibling_which_has_none() -> None:
    """The same for the same VMs, in whatever order they come."""
    vms = [made_of(n, DEBIAN) for n in range(4)] + [made_of(n, WINDOWS) for n in (7, 8)]
    expected = {key_of(n): key_of(0) for n in (1, 2, 3)} | {key_of(8): key_of(7)}
    for seed in range(5):
        Random(seed).shuffle(vms)
        assert siblings(vms, (), {}) == expected


def test_one_that_has_a_restore_point_is_preferred() -> None:
    """It is there now; what the same job reads may come too late."""
    vms = [made_of(n, DEBIAN) for n in range(3)]
    assert siblings(vms, {key_of(2)}, {}) == {key_of(0): key_of(2), key_of(1): key_of(2)}


def test_one_of_another_job_is_taken_where_the_own_job_has_none_yet() -> None:
    """One of the own job that has points is known to be there still: it goes before that."""
    vms, known = [made_of(n, DEBIAN) for n in range(2)], {DEBIAN: [key_of(9)]}
    assert siblings(vms, {key_of(9)}, known) == {key_of(0): key_of(9), key_of(1): key_of(9)}
    assert siblings(vms[:1], {key_of(9)}, known) == {key_of(0): key_of(9)}
    assert siblings(vms, {key_of(9), key_of(1)}, known) == {key_of(0): key_of(1)}
    assert siblings(vms[:1], {key_of(0)}, {DEBIAN: [key_of(0)]}) == {}, "never itself"
    assert siblings(vms[:1], (), {WINDOWS: [key_of(9)]}) == {}


def test_one_whose_points_were_forgotten_is_passed_over() -> None:
    """Another of the same image may have some; where nobody is new, nobody is asked."""
    vms, known = [made_of(n, DEBIAN) for n in range(3)], {DEBIAN: [key_of(7), key_of(8)]}
    done, asked = {key_of(n) for n in (0, 1, 7, 8)}, list[str]()

    def chosen(*there: int) -> str:
        def has_points(key: str) -> bool:
            asked.append(key)
            return key in map(key_of, there)

        return siblings(vms, done, known, has_points)[key_of(2)]

    assert chosen(1, 7, 8) == key_of(1)
    assert chosen(8) == key_of(8)
    assert asked[2:] == [key_of(n) for n in (0, 1, 7, 8)]
    assert chosen() == key_of(0), "which the same job reads"
    asked.clear()
    vms.pop()
    with pytest.raises(KeyError):
        chosen()
    assert asked == []


def test_few_are_asked_for_points() -> None:
    """However many VMs of an image had some once."""
    asked = list[str]()
    known = {DEBIAN: [key_of(n) for n in range(1, 1000)]}
    siblings([made_of(0, DEBIAN)], (), known, lambda key: bool(asked.append(key)))
    assert len(asked) == 5


def test_those_of_unknown_make_have_none() -> None:
    """Disks that were attached, uploaded or restored tell no image."""
    assert siblings([made_of(n, "") for n in range(3)], (), {}) == {}


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ({"publisher": "Debian", "offer": "debian-12", "sku": "12", "version": "latest"}, DEBIAN),
        ({"publisher": "Debian", "offer": "debian-12", "sku": "12", "version": "0.1"}, DEBIAN),
        ({"id": "/images/Windows"}, WINDOWS),
        ({"publisher": "Debian"}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_what_a_vm_was_made_of(reference: dict[str, str] | None, image: str) -> None:
    """A custom image by its id, any other by all but its version."""
    body = {
        "id": "/subscriptions/s/resourceGroups/g/providers/x/virtualMachines/vm",
        "name": "vm",
        "properties": {
            "vmId": key_of(1),
            "storageProfile": {
                "imageReference": reference,
                "osDisk": {"name": "os", "managedDisk": {"id": "/disks/os"}, "osType": "Linux"},
            },
        },
    }
    assert outline(body, OneDisk(), lambda _: False).image == image


class OneDisk:
    """The body of the only disk there is."""

    def body(self, resource_id: str) -> dict[str, object]:
        properties = {"diskSizeGB": 1, "uniqueId": "u", "diskSizeBytes": 1 << 30}
        return {"id": resource_id, "name": "os", "properties": properties, "sku": {"name": "x"}}

    def blob(self, url: str) -> None:
        raise AssertionError(url)


def test_streams_are_told_the_sibling() -> None:
    """What a job distributes names it."""
    vms = [made_of(n, DEBIAN) for n in range(3)]
    job = Job(run="run-1", session="0" * 32, policy="nightly", stack="local")
    terms = Terms(Policy(name="nightly"))
    manifests = prepare(job, iter(vms), [host("a")], terms, Past([]), now=NOW)
    told = {vm.key: vm.sibling for m in manifests for w in m.workloads for vm in w.vms}
    assert told == {key_of(0): "", key_of(1): key_of(0), key_of(2): key_of(0)}
