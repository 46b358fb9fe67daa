"""
What a restore's plan asks the stack, and the lines that it collects.

Owns the questions (is it there, is it free, is it allowed, is there room) and that each is asked
once; decides nothing about the request. Invariants: reads only; what may not be read is one more
line for the user and not the end of the plan.
"""

import ipaddress
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import power_state
from airflow_provider_azstack.arm.network import Network
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.machines import Body, reference
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    SourceGone,
)
from airflow_provider_azstack.policy import is_like

_RESERVED_HOSTS = 4  # the first addresses of a subnet are the platform's, and so is its last


class Survey:
    """Asks the stack for one plan. ``refusals`` and ``remarks`` are what the user will read."""

    def __init__(self, stack: Stack, accounts: Accounts) -> None:
        self.stack = stack
        self.accounts = accounts
        self.refusals: list[str] = []
        self.remarks: list[str] = []
        self.find = cache(self._find)
        self.permissions = cache(self._permissions)
        self.sizes = cache(self._sizes)
        self.usages = cache(self._usages)
        self._nics = cache(self._list_nics)

    def refuse(self, line: str) -> None:
        """Note a reason not to restore; each is told once."""
        if line not in self.refusals:
            self.refusals.append(line)

    def remark(self, line: str) -> None:
        """Note something that the user should know before agreeing."""
        if line not in self.remarks:
            self.remarks.append(line)

    def require(self, resource_id: str, what: str) -> Body | None:
        """Return a resource that must be there; its absence is refused."""
        found = self.find(resource_id)
        if found is None:
            self.refuse(f"{what} {resource_id} does not exist, or may not be seen")
        return found

    def check_address(self, address: str, subnet: Body, nic_id: str) -> None:
        """Refuse a static private address that is not in its subnet, or taken."""
        prefix = str((subnet.get("properties") or {}).get("addressPrefix") or "")
        try:
            network = ipaddress.ip_network(prefix)
            place = int(ipaddress.ip_address(address)) - int(network.network_address)
        except ValueError:
            self.refuse(f"{address} cannot be compared with subnet {subnet['id']} ({prefix})")
            return
        if not _RESERVED_HOSTS <= place < network.num_addresses - 1:
            self.refuse(f"address {address} is no host of subnet {subnet['id']} ({prefix})")
        owner = self._address_owner(subnet["id"], address)
        if owner and owner.lower() != nic_id.lower():
            self.refuse(f"address {address} of subnet {subnet['id']} is taken by {owner}")

    def _address_owner(self, subnet_id: str, address: str) -> str:
        subscription = subnet_id.split("/")[2]
        for nic in self._nics(subscription):
            for configuration in (nic.get("properties") or {}).get("ipConfigurations") or ():
                has = configuration.get("properties") or {}
                same_subnet = reference(has.get("subnet")).lower() == subnet_id.lower()
                if same_subnet and has.get("privateIPAddress") == address:
                    return str(nic["id"])
        return ""

    def check_quota(self, subscription: str, location: str, wanted: dict[str, int]) -> None:
        """
        Refuse what the subscription has no room for.

        :param wanted: by the names that the stack counts by; those that it does not are skipped.
        """
        for usage in self.usages(subscription, location):
            name = str((usage.get("name") or {}).get("value", ""))
            room = int(usage.get("limit", 0)) - int(usage.get("currentValue", 0))
            if (need := wanted.get(name.lower(), 0)) > room:
                self.refuse(
                    f"quota {name} of subscription {subscription} has room for {max(room, 0)}, "
                    f"this restore needs {need}"
                )

    def check_permissions(self, needed: Iterable[tuple[str, str]]) -> None:
        """Refuse each action that the application may not do in its scope."""
        for scope, action in needed:
            if not self.allows(scope, action):
                self.refuse(f"permission {action} on {scope} is missing")

    def allows(self, scope: str, action: str) -> bool:
        """Tell whether an action may be done in a scope, as far as the stack tells."""
        entries = self.permissions(scope)
        return entries is None or _allows(entries, action)

    def power(self, vm_id: str) -> str:
        """Return a VM's power state, or nothing."""
        try:
            return power_state(self.stack.find(vm_id, **{"$expand": "instanceView"}) or {})
        except AzStackError:
            return ""

    def _find(self, resource_id: str) -> Body | None:
        try:
            return self.stack.find(resource_id)
        except (AccessDenied, ConfigurationError) as error:
            self.refuse(f"{resource_id} may not be read: {error}")
            return None

    def _list_nics(self, subscription: str) -> tuple[Body, ...]:
        try:
            return tuple(Network(self.stack).nics(subscription))
        except (AccessDenied, SourceGone) as error:
            self.remark(f"whether addresses are free cannot be told beforehand: {error}")
            return ()

    def _permissions(self, scope: str) -> tuple[Body, ...] | None:
        path = f"{scope}/providers/Microsoft.Authorization/permissions"
        try:
            return tuple(self.stack.list(path))
        except (AccessDenied, SourceGone, ConfigurationError) as error:
            self.remark(f"permissions on {scope} cannot be told beforehand: {error}")
            return None

    def _sizes(self, subscription: str, location: str) -> dict[str, Body] | None:
        found = self._location_list(subscription, location, "vmSizes")
        return None if found is None else {str(size.get("name")).lower(): size for size in found}

    def _usages(self, subscription: str, location: str) -> tuple[Body, ...]:
        return tuple(self._location_list(subscription, location, "usages") or ())

    def _location_list(self, subscription: str, location: str, kind: str) -> list[Body] | None:
        path = f"/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{location}"
        try:
            return list(self.stack.list(f"{path}/{kind}"))
        except AzStackError as error:
            self.remark(f"{kind} of {location} cannot be told beforehand: {error}")
            return None


def _allows(entries: Iterable[dict[str, Any]], action: str) -> bool:
    return any(
        any(is_like(action, str(pattern)) for pattern in entry.get("actions") or ())
        and not any(is_like(action, str(pattern)) for pattern in entry.get("notActions") or ())
        for entry in entries
    )


def scope_of(resource_id: str) -> str:
    """Return the resource group's id of an ARM id."""
    parts = resource_id.split("/")
    at = [n for n, (kind, _) in enumerate(pairwise(parts)) if kind.lower() == "resourcegroups"]
    return "/".join(parts[: at[0] + 2]) if at else resource_id
