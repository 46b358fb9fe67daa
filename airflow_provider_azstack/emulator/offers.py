"""
What a region offers: sizes of virtual machines, kinds of disks, quotas and how far they are used.

Owns the tables; changes nothing. Invariant: what is not listed here is refused where it is asked
for.
"""

from airflow_provider_azstack.emulator import resources
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.emulator.state import World

SIZES: dict[str, tuple[int, int, int]] = {  # cores, MiB of memory, most data disks
    "Standard_A1": (1, 1792, 2),
    "Standard_A2": (2, 3584, 4),
    "Standard_D1_v2": (1, 3584, 4),
    "Standard_DS1_v2": (1, 3584, 4),
    "Standard_DS2_v2": (2, 7168, 8),
    "Standard_F4s_v2": (4, 8192, 16),
}


def vm_sizes(world: World, call: Call) -> Answer:
    """``GET .../locations/{l}/vmSizes``."""
    listed = [
        {
            "name": name,
            "numberOfCores": cores,
            "memoryInMB": memory,
            "maxDataDiskCount": disks,
            "osDiskSizeInMB": 1047552,
            "resourceDiskSizeInMB": 51200,
        }
        for name, (cores, memory, disks) in SIZES.items()
    ]
    return resources.page(world, call, listed)


def skus(world: World, call: Call) -> Answer:
    """``GET .../Microsoft.Compute/skus``."""
    place = {"locations": [world.location], "restrictions": []}
    sizes = [{"resourceType": "virtualMachines", "name": name, **place} for name in SIZES]
    disks = [
        {"resourceType": "disks", "name": name, "tier": name.split("_")[0], **place}
        for name in ("Standard_LRS", "Premium_LRS")
    ]
    return resources.page(world, call, [*sizes, *disks])


def usages(world: World, call: Call) -> Answer:
    """``GET .../locations/{l}/usages``: quotas that a restore can hit."""
    behaviour = world.behaviour
    there = {
        kind: list(world.of_type(f"Microsoft.Compute/{kind}"))
        for kind in ("disks", "snapshots", "virtualMachines")
    }
    used = sum(int(disk.properties["diskSizeBytes"]) for disk in there["disks"]) >> 30
    counted = {
        "StandardDiskSizeGiB": (used, behaviour.disk_quota_bytes >> 30),
        "SnapshotCount": (len(there["snapshots"]), behaviour.snapshot_quota),
        "virtualMachines": (len(there["virtualMachines"]), 1000),
    }
    listed = [
        {
            "name": {"value": name, "localizedValue": name},
            "currentValue": value,
            "limit": limit,
            "unit": "Count",
        }
        for name, (value, limit) in counted.items()
    ]
    return resources.page(world, call, listed)
