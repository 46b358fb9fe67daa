"""
A fleet that is made up: as the lists of a stack, and as the virtual machines that they become.

Owns their shape, three disks each; measures nothing. Invariant: the same number is the same VM.
"""

import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.model import Disk, VirtualMachine
from airflow_provider_azstack.secret import Secret

DISKS_GIB = (32, 64, 64)
STACK = "management.benchmark.example"
PAGE = 100  # resources on a page of a list
GIB = 1 << 30
SUBSCRIPTION = "6b3f3f3e-0000-4000-8000-000000000000"


class Lists(Stack):
    """A stack that answers lists from memory, each page as the JSON that it would be."""

    def __init__(self, count: int) -> None:
        super().__init__(f"https://{STACK}", Credentials("tenant", "client", Secret("none")))
        bodies = [_bodies(number) for number in range(count)]
        self._pages = {
            "virtualMachines": _pages(vm for vm, _ in bodies),
            "disks": _pages(disk for _, disks in bodies for disk in disks),
        }

    def subscriptions(self) -> Iterator[dict[str, Any]]:
        yield {"subscriptionId": SUBSCRIPTION}

    def list(self, path: str, **_: str) -> Iterator[dict[str, Any]]:
        for page in self._pages.get(path.rpartition("/")[2], ()):
            yield from json.loads(page)["value"]


def _pages(bodies: Iterator[dict[str, Any]]) -> list[bytes]:
    every = list(bodies)
    return [
        json.dumps({"value": every[at : at + PAGE]}).encode() for at in range(0, len(every), PAGE)
    ]


class _Ids(NamedTuple):
    """What the bodies of one VM call each other."""

    number: int

    @property
    def name(self) -> str:
        return f"vm{self.number:05d}"

    @property
    def nic(self) -> str:
        return f"{self._providers}/Microsoft.Network/networkInterfaces/{self.name}-nic"

    @property
    def compute(self) -> str:
        return f"{self._providers}/Microsoft.Compute"

    @property
    def _providers(self) -> str:
        group = f"group{self.number % 200}"
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers"


def _bodies(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    ids = _Ids(number)
    disks = [_disk_body(ids, n, size) for n, size in enumerate(DISKS_GIB)]
    return _vm_body(ids, disks), disks


def _disk_body(ids: _Ids, n: int, size_gib: int) -> dict[str, Any]:
    return {
        "id": f"{ids.compute}/disks/{ids.name}-{n}",
        "name": f"{ids.name}-{n}",
        "type": "Microsoft.Compute/disks",
        "location": "local",
        "sku": {"name": "Premium_LRS", "tier": "Premium"},
        "properties": {
            "creationData": {"createOption": "Empty"},
            "diskSizeGB": size_gib,
            "diskSizeBytes": size_gib * GIB,
            "uniqueId": str(uuid.UUID(int=ids.number * 8 + n)),
            "provisioningState": "Succeeded",
            "diskState": "Attached",
        },
    }


def _vm_body(ids: _Ids, disks: list[dict[str, Any]]) -> dict[str, Any]:
    system, *data = (
        {"name": disk["name"], "caching": "None", "managedDisk": {"id": disk["id"]}}
        for disk in disks
    )
    storage = {
        "osDisk": {**system, "osType": "Linux"},
        "dataDisks": [{"lun": lun, **disk} for lun, disk in enumerate(data)],
    }
    return {
        "id": f"{ids.compute}/virtualMachines/{ids.name}",
        "name": ids.name,
        "type": "Microsoft.Compute/virtualMachines",
        "location": "local",
        "tags": {"tier": "gold", "owner": f"team{ids.number % 20}"},
        "properties": {
            "vmId": str(uuid.UUID(int=ids.number)),
            "hardwareProfile": {"vmSize": "Standard_D2_v2"},
            "provisioningState": "Succeeded",
            "storageProfile": storage,
            "networkProfile": {"networkInterfaces": [{"id": ids.nic}]},
        },
    }


def machines(count: int) -> list[VirtualMachine]:
    """Return VMs as discovery does."""
    return [_machine(_Ids(number)) for number in range(count)]


def _machine(ids: _Ids) -> VirtualMachine:
    return VirtualMachine(
        id=f"{ids.compute}/virtualMachines/{ids.name}",
        key=str(uuid.UUID(int=ids.number)),
        name=ids.name,
        subscription_id=SUBSCRIPTION,
        resource_group=f"group{ids.number % 200}",
        location="local",
        size="Standard_D2_v2",
        os_type="Linux",
        power_state="running",
        disks=tuple(
            Disk(
                key="os" if n == 0 else f"data-{n - 1}",
                name=f"{ids.name}-{n}",
                kind="managed",
                source=f"{ids.compute}/disks/{ids.name}-{n}",
                size_bytes=size * GIB,
                unique_id=str(uuid.UUID(int=ids.number * 8 + n)),
            )
            for n, size in enumerate(DISKS_GIB)
        ),
    )
