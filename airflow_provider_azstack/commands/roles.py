"""
``airflow azstack roles``: the least that each principal must be allowed.

Owns the four role definitions; knows no stack.
Invariant: only ``restore`` can change a VM. No role can delete one; snapshots may be deleted, and
by ``restore`` what it makes itself and could not finish.
"""

import json
from argparse import Namespace
from typing import Any

import rich

_COMPUTE = "Microsoft.Compute"
_NETWORK = "Microsoft.Network"

ROLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "reader": (
        "Discover protected VMs and snapshot their disks. Assign on protected groups.",
        (
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Resources/subscriptions/providers/read",  # for doctor
            f"{_COMPUTE}/virtualMachines/read",
            f"{_COMPUTE}/virtualMachines/instanceView/read",
            f"{_COMPUTE}/virtualMachines/extensions/read",
            f"{_COMPUTE}/availabilitySets/read",
            f"{_COMPUTE}/disks/read",
            f"{_COMPUTE}/disks/beginGetAccess/action",
            f"{_NETWORK}/networkInterfaces/read",
            f"{_NETWORK}/networkSecurityGroups/read",
            f"{_NETWORK}/publicIPAddresses/read",
            f"{_NETWORK}/virtualNetworks/read",
            f"{_NETWORK}/virtualNetworks/subnets/read",
        ),
    ),
    "snapshots": (
        "Keep temporary snapshots. Assign on the one resource group for snapshots.",
        (
            f"{_COMPUTE}/snapshots/read",
            f"{_COMPUTE}/snapshots/write",
            f"{_COMPUTE}/snapshots/delete",
            f"{_COMPUTE}/snapshots/beginGetAccess/action",
            f"{_COMPUTE}/snapshots/endGetAccess/action",
            f"{_COMPUTE}/locations/operations/read",
        ),
    ),
    "restore": (
        "Create disks, NICs and VMs again. Assign on target groups, to a separate principal.",
        (
            f"{_COMPUTE}/disks/read",
            f"{_COMPUTE}/disks/write",
            f"{_COMPUTE}/disks/beginGetAccess/action",
            f"{_COMPUTE}/disks/endGetAccess/action",
            f"{_COMPUTE}/disks/delete",
            f"{_COMPUTE}/virtualMachines/read",
            f"{_COMPUTE}/virtualMachines/write",
            f"{_COMPUTE}/virtualMachines/instanceView/read",
            f"{_COMPUTE}/virtualMachines/deallocate/action",
            f"{_COMPUTE}/virtualMachines/start/action",
            f"{_COMPUTE}/snapshots/read",
            f"{_COMPUTE}/snapshots/write",
            f"{_COMPUTE}/snapshots/beginGetAccess/action",
            f"{_COMPUTE}/snapshots/endGetAccess/action",
            f"{_COMPUTE}/virtualMachines/extensions/read",
            f"{_COMPUTE}/virtualMachines/extensions/write",
            f"{_COMPUTE}/availabilitySets/read",
            f"{_COMPUTE}/availabilitySets/write",
            f"{_COMPUTE}/availabilitySets/vmSizes/read",
            "Microsoft.Authorization/permissions/read",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Resources/subscriptions/resourceGroups/resources/read",  # of trials
            f"{_NETWORK}/networkInterfaces/read",
            f"{_NETWORK}/networkInterfaces/write",
            f"{_NETWORK}/networkInterfaces/delete",
            f"{_NETWORK}/networkInterfaces/join/action",
            f"{_NETWORK}/virtualNetworks/subnets/read",
            f"{_NETWORK}/virtualNetworks/subnets/join/action",
            f"{_NETWORK}/networkSecurityGroups/read",
            f"{_NETWORK}/networkSecurityGroups/join/action",
            f"{_NETWORK}/publicIPAddresses/read",
            f"{_NETWORK}/publicIPAddresses/write",
            f"{_NETWORK}/publicIPAddresses/delete",
            f"{_NETWORK}/publicIPAddresses/join/action",
        ),
    ),
    "unmanaged": (
        "Snapshot and read unmanaged disks. Assign on their storage accounts.",
        (
            "Microsoft.Storage/storageAccounts/read",
            "Microsoft.Storage/storageAccounts/listKeys/action",
        ),
    ),
}


# Only for policies whose consistency is "stopped": VMs are deallocated and started again.
POWER = (
    f"{_COMPUTE}/virtualMachines/deallocate/action",
    f"{_COMPUTE}/virtualMachines/start/action",
)
_ANY = "00000000-0000-0000-0000-000000000000"


def role_definition(name: str, subscriptions: list[str], *, power: bool = False) -> dict[str, Any]:
    """
    Return one role in the form that ``New-AzRoleDefinition -InputFile`` reads.

    :param power: let *reader* deallocate and start VMs, which consistency ``stopped`` needs.
    """
    description, actions = ROLES[name]
    if power and name == "reader":
        actions += POWER
    return {
        "Name": f"AzStack backup {name}",
        "IsCustom": True,
        "Description": description,
        "Actions": list(actions),
        "NotActions": [],
        "AssignableScopes": [f"/subscriptions/{name}" for name in subscriptions or [_ANY]],
    }


def roles(args: Namespace) -> None:
    """Print the definitions: one object with --name, else a list."""
    names = [args.name] if args.name else list(ROLES)
    definitions = [role_definition(name, args.subscription, power=args.power) for name in names]
    rich.print_json(json.dumps(definitions[0] if args.name else definitions))
