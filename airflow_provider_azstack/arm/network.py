"""
Network interfaces of a stack, read as plain dicts with wire names.

Owns the path of their list; changes nothing. Invariant: reads only.
"""

from collections.abc import Iterator
from typing import Any

from airflow_provider_azstack.arm.client import Stack


class Network:
    """Network interfaces of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def nics(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the network interfaces of a subscription."""
        path = f"/subscriptions/{subscription}/providers/Microsoft.Network/networkInterfaces"
        return self._stack.list(path)
