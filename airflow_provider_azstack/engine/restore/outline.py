"""
A restore plan in sentences, for the person who agrees to it.

Owns the words; decides nothing. Invariant: a line for each VM and for each resource that exists
and will be changed, whatever the plan holds.
"""

from airflow_provider_azstack.engine.restore.records import PlannedVm, RestorePlan
from airflow_provider_azstack.speed import amount


def vm_lines(plan: RestorePlan) -> list[str]:
    """Return what becomes of each VM."""
    return [_vm_line(vm) for vm in plan.vms]


def change_lines(plan: RestorePlan) -> list[str]:
    """Return what happens to each resource that exists and will be changed."""
    return [f"{one}: {_change(one, plan)}" for one in plan.touched]


def _vm_line(vm: PlannedVm) -> str:
    data = amount(sum(disk.data_bytes for disk in vm.disks))
    disks = ", ".join(disk.key for disk in vm.disks)
    if vm.occupant:
        end = f"put into {vm.target}, which is there"
    elif vm.attach_to:
        end = f"attached to {vm.attach_to}"
    else:
        end = f"as the new VM {vm.target}" if vm.target else "as disks only"
    return f"{vm.name} as of {vm.taken_at:%Y-%m-%d %H:%M:%S} UTC: {disks} ({data}), {end}"


def _change(one: str, plan: RestorePlan) -> str:
    for vm in plan.vms:
        if vm.occupant and one == vm.target:
            return "is stopped, and its disks are replaced"
        if any(one == disk.place for disk in vm.replaces):
            return f"gives way to a disk of {vm.name}, and is kept"
        if one == vm.attach_to:
            return f"gets disks of {vm.name}"
    return "a public address, given to what is restored"
