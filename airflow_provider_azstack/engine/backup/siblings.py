"""
Which VMs were made of the same image, so that the first backup of one can build on another's.

Pure; knows no disks. Invariant: a VM has at most one sibling, the same for the same VMs and the
same past, and never itself. It is a guess: what is compared in the end is what the disks hold.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from airflow_provider_azstack.model import VirtualMachine


def siblings(
    vms: Iterable[VirtualMachine], done: Collection[str], elsewhere: Mapping[str, str]
) -> dict[str, str]:
    """
    Return by VM another one that was made of the same image.

    One of the same job that has restore points is preferred, because it is known to be there still;
    then one of another job; then one that the same job reads, whose first image may come too late.

    :param done: VMs that have restore points.
    :param elsewhere: by image, a VM that has restore points, of whatever job.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for vm in vms:
        if vm.image:
            families[vm.image].append(vm.key)
    found: dict[str, str] = {}
    for image, keys in families.items():
        first = min(keys, key=lambda key: (key not in done, key))
        chosen = first if first in done else elsewhere.get(image, first)
        found.update((key, chosen) for key in keys if key != chosen)
    return found
