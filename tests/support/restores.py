"""Restores on the emulator: requests carried out, and what is on the stack afterwards."""

from typing import Any

import pytest
from support.mortal import DeathError, Mortal

from airflow_provider_azstack.emulator import EmulatedDisk, Emulator
from airflow_provider_azstack.engine.restore.execute import Outcome, carry_out
from airflow_provider_azstack.engine.restore.plan import plan_restore
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.request import read_request
from airflow_provider_azstack.errors import AzStackError

from .compound import Rig


def plan(rig: Rig, **request: Any) -> RestorePlan:
    return plan_restore(rig.stack, rig.repository, read_request(request))


def execute(rig: Rig, made: RestorePlan, store: Any = None) -> list[Outcome]:
    """Carry a plan out in a session of its own, which ends as a killed one would not."""
    session = rig.repository.open_session("restore", run=made.id)
    try:
        return carry_out(rig.stack, session, made, lambda _: None)
    finally:
        session.close()


def restore(rig: Rig, **request: Any) -> RestorePlan:
    """Plan and carry out; every VM must be restored."""
    made = plan(rig, **request)
    assert made.refusals == ()
    for outcome in execute(rig, made):
        assert outcome.status == "done", outcome
    return made


def body(rig: Rig, resource_id: str) -> dict[str, Any]:
    """Return what the stack says of a resource now."""
    return rig.stack.get(resource_id)


def disk_at(emulator: Emulator, place: str) -> EmulatedDisk:
    """Return the disk or blob that is at an ARM id or URL."""
    if place.startswith("/"):
        return EmulatedDisk("managed", "restored", place, emulator.world.get(place).volume)
    account, container, name = place.removeprefix(f"{emulator.blob_url}/").split("/", 2)
    volume = emulator.world.blobs[account, container, name].volume
    return EmulatedDisk("unmanaged", "restored", place, volume)


def digests(emulator: Emulator, made: RestorePlan) -> dict[tuple[str, str], str]:
    """Return the SHA-256 of every disk of a plan as it is on the stack: (VM, key) -> digest."""
    return {
        (vm.name, disk.key): disk_at(emulator, disk.id).sha256()
        for vm in made.vms
        for disk in vm.disks
    }


def error_of(rig: Rig, made: RestorePlan) -> AzStackError | None:
    """Return why carrying out failed, or None."""
    try:
        execute(rig, made)
    except AzStackError as error:
        return error
    return None


def life(
    site: Rig, monkeypatch: pytest.MonkeyPatch, made: RestorePlan, at: int | None, *, after: bool
) -> int:
    """Carry a plan out until death; return how many calls there were."""
    session = site.repository.open_session("restore")
    with monkeypatch.context() as patch:
        mortal = Mortal(patch, at, after=after)
        try:
            carry_out(site.stack, session, made, lambda _: None)
        except DeathError:
            assert at is not None
    site.repository.fence(session.id)
    return mortal.calls
