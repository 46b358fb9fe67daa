"""VMs of one name: a person sees which is which."""

from datetime import UTC, datetime, timedelta

import pytest
from support.points import vm_key
from support.repositories import a_vm, bare_point

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.points.namesakes import distinct, told_apart

pytestmark = pytest.mark.tier1

MONDAY = datetime(2026, 11, 2, 6, 0, tzinfo=UTC)
LOST, RESTORED = vm_key(9), vm_key(1)


def a_point(key: str, day: int) -> RestorePoint:
    return bare_point(key, MONDAY + timedelta(days=day), f"p-{day}")


def test_each_vm_is_told_by_its_newest_point_the_newest_vm_last() -> None:
    said = told_apart("web", [a_point(RESTORED, 3), a_point(LOST, 0), a_point(LOST, 2)])
    group = a_vm().resource_group
    assert said == (
        "'web' names 2 VMs; give the key of one: "
        f"{LOST} (newest point of 2026-11-04 06:00 UTC, in {group}), "
        f"{RESTORED} (newest point of 2026-11-05 06:00 UTC, in {group})"
    )


def test_one_vm_needs_no_telling() -> None:
    assert told_apart("web", [a_point(LOST, 0), a_point(LOST, 2)]) == ""
    assert told_apart("web", []) == ""


def test_names_that_repeat_in_a_list_are_followed_by_the_beginning_of_the_key() -> None:
    """What has no key, as a VM that was never backed up, keeps its name."""
    vms = [(LOST, "web"), (vm_key(2), "db"), ("", "web"), (RESTORED, "web")]
    assert distinct(vms) == [f"web ({LOST[:8]})", "db", "web", f"web ({RESTORED[:8]})"]
    assert distinct([]) == []
