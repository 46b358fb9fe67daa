"""
A door for the demo, which runs in another process: change guests, read disks, list leftovers.

Owns what a stack does not offer and a comparison needs; knows nothing of backups.
Invariant: the door opens to the token in ``connection.json`` alone.
"""

from airflow_provider_azstack.emulator.fleet import EmulatedVm, Fleet
from airflow_provider_azstack.emulator.handles import EmulatedDisk
from airflow_provider_azstack.emulator.http import (
    Answer,
    Call,
    Extract,
    Json,
    Problem,
    Route,
    Router,
    json_answer,
    same,
)
from airflow_provider_azstack.emulator.leftovers import leftovers

PREFIX = "/emulator/"


def application(fleet: Fleet, call: Call) -> Answer:
    """Answer a call to the control endpoint."""
    try:
        return _answer(fleet, call)
    except Problem as problem:
        return problem.as_json()


def _answer(fleet: Fleet, call: Call) -> Answer:
    expected = f"Bearer {fleet.world.control_token}"
    if not same(call.header("Authorization"), expected):
        raise Problem(401, "AuthenticationFailed", "The control token is wrong.")
    route = CONTROL.find(call, call.path)
    if route is None:
        raise Problem(404, "NotFound", "The control endpoint has no such thing.")
    return route.handler(fleet, call)


def list_disks(fleet: Fleet, _: Call) -> Answer:
    """``GET /emulator/disks``: every disk of every VM."""
    found = [_describe(vm, disk) for vm in fleet.vms.values() for disk in vm.disks]
    return json_answer(200, {"value": found})


def digest(fleet: Fleet, call: Call) -> Answer:
    """``GET /emulator/disks/digest?source=``: SHA-256 of what the disk holds now."""
    vm, disk = _disk(fleet, call)
    return json_answer(200, {**_describe(vm, disk), "sha256": disk.sha256()})


def content(fleet: Fleet, call: Call) -> Answer:
    """``GET /emulator/disks/content?source=``: the bytes themselves, without the footer."""
    _, disk = _disk(fleet, call)
    return Answer(200, body=Extract(disk.volume.freeze(), 0, disk.size_bytes))


def change_guests(fleet: Fleet, call: Call) -> Answer:
    """``POST /emulator/guests/change {"seed": n, "vms": [names]}``: guests write files."""
    asked = call.json()
    seed, names = int(asked.get("seed", 0)), asked.get("vms")
    changed: list[Json] = []
    for number, (vm, disk) in enumerate(_disks_with_guests(fleet)):
        if names and vm.name not in names:
            continue
        guest = fleet.guests[disk.source]
        files = guest.change(seed * 1000 + number)
        size_bytes = disk.sync_from(guest.path)
        changed.append({**_describe(vm, disk), "files": files, "changed_bytes": size_bytes})
    return json_answer(200, {"value": changed})


def list_leftovers(fleet: Fleet, _: Call) -> Answer:
    """``GET /emulator/leftovers``."""
    return json_answer(200, {"value": [found._asdict() for found in leftovers(fleet.world)]})


def _disks_with_guests(fleet: Fleet) -> list[tuple[EmulatedVm, EmulatedDisk]]:
    return [
        (vm, disk) for vm in fleet.vms.values() for disk in vm.disks if disk.source in fleet.guests
    ]


def _disk(fleet: Fleet, call: Call) -> tuple[EmulatedVm, EmulatedDisk]:
    for vm in fleet.vms.values():
        for disk in vm.disks:
            if disk.source.lower() == call.query.get("source", "").lower():
                return vm, disk
    raise Problem(404, "NotFound", "No VM has a disk of that source.")


def _describe(vm: EmulatedVm, disk: EmulatedDisk) -> Json:
    return {
        "vm": vm.name,
        "vm_id": vm.vm_id,
        "disk": disk.name,
        "position": vm.disks.index(disk),  # 0 is the OS disk, n the data disk at n - 1
        "kind": disk.kind,
        "source": disk.source,
        "size_bytes": disk.size_bytes,
    }


CONTROL = Router(
    [
        Route("GET", "/emulator/disks", list_disks),
        Route("GET", "/emulator/disks/digest", digest),
        Route("GET", "/emulator/disks/content", content),
        Route("GET", "/emulator/leftovers", list_leftovers),
        Route("POST", "/emulator/guests/change", change_guests),
    ]
)
