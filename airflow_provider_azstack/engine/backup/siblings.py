"""
Which VMs were made of the same image, so that the first backup of one can build on another's.

Pure; knows no disks. Invariant: a VM has at most one sibling, the same for the same VMs and the
same past, and never itself. It is a guess: what is compared in the end is what the disks hold.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from airflow_provider_azstack.model import VirtualMachine

_ASKED = 5  # so many VMs of an image may have had restore points that were forgotten since


def siblings(
    vms: Iterable[VirtualMachine],
    done: Collection[str],
    elsewhere: Mapping[str, Sequence[str]],
    has_points: Callable[[str], bool] = lambda _: True,
) -> dict[str, str]:
    """
    Return by VM another one that was made of the same image.

    One of the same job that has restore points is preferred, because it is known to be there still;
    then one of another job; then one that the same job reads, whose first image may come too late.

    :param done: VMs of which restore points were made.
    :param elsewhere: by image, VMs of which restore points were made, of whatever job, in the order
        in which they are to be tried.
    :param has_points: tells whether a VM still has restore points; asked where somebody is new.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for vm in vms:
        if vm.image:
            families[vm.image].append(vm.key)
    found: dict[str, str] = {}
    for image, keys in families.items():
        own = sorted(key for key in keys if key in done)
        tried = list(dict.fromkeys((*own, *elsewhere.get(image, ()))))[:_ASKED]
        is_anybody_new = len(own) < len(keys)
        there = (key for key in tried if not is_anybody_new or has_points(key))
        chosen = next(there, min(keys))
        found.update((key, chosen) for key in keys if key != chosen)
    return found
