"""
Network resources that a virtual machine refers to, read as plain dicts with wire names.

Owns their paths; changes nothing. Invariant: reads only.
"""

from collections.abc import Iterator
from typing import Any

from airflow_provider_azstack.arm.client import Stack

_PROVIDER = "providers/Microsoft.Network"


class Network:
    """Network resources of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def nics(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the network interfaces of a subscription."""
        return self._list(subscription, "networkInterfaces")

    def public_addresses(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the public addresses of a subscription."""
        return self._list(subscription, "publicIPAddresses")

    def networks(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the virtual networks of a subscription, with their subnets."""
        return self._list(subscription, "virtualNetworks")

    def security_groups(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the network security groups of a subscription."""
        return self._list(subscription, "networkSecurityGroups")

    def nic(self, nic_id: str) -> dict[str, Any]:
        """Return a network interface."""
        return self._stack.get(nic_id)

    def public_address(self, address_id: str) -> dict[str, Any]:
        """Return a public address."""
        return self._stack.get(address_id)

    def _list(self, subscription: str, kind: str) -> Iterator[dict[str, Any]]:
        return self._stack.list(f"/subscriptions/{subscription}/{_PROVIDER}/{kind}")
