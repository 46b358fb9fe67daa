"""
Which VMs were made of the same image, so that the first backup of one can build on another's.

Pure; knows no disks. Invariant: a VM has at most one sibling, the same for the same VMs and the
same past, and never itself. It is a guess: what is compared in the end is what the disks hold.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from airflow_provider_azstack.model import VirtualMachine


def siblings(vms: Iterable[VirtualMachine], done: Collection[str]) -> dict[str, str]:
    """
    Return by VM another one that was made of the same image.

    :param done: VMs that have restore points: one of those is preferred.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for vm in vms:
        if vm.image:
            families[vm.image].append(vm.key)
    found: dict[str, str] = {}
    for keys in families.values():
        first, *others = sorted(keys, key=lambda key: (key not in done, key))
        found.update(dict.fromkeys(others, first))
    return found
