"""
VMs that have had the same name, such as one and what was restored in its place.

Owns how they are told apart; knows no store. Invariant: each key is named once, newest last.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from airflow_provider_azstack.model import RestorePoint

_SHOWN = 8  # digits of a key: enough to tell few VMs apart, and a key may be found by them


def told_apart(name: str, points: Iterable[RestorePoint]) -> str:
    """Return what to say when ``points`` of several VMs fit ``name``; nothing when of one."""
    newest: dict[str, RestorePoint] = {}
    for point in points:
        known = newest.setdefault(point.vm.key, point)
        if point.taken_at > known.taken_at:
            newest[point.vm.key] = point
    if len(newest) < 2:
        return ""
    keys = ", ".join(
        f"{key} (newest point of {point.taken_at:%Y-%m-%d %H:%M} UTC, in {point.vm.resource_group})"
        for key, point in sorted(newest.items(), key=lambda item: item[1].taken_at)
    )
    return f"{name!r} names {len(newest)} VMs; give the key of one: {keys}"


def distinct(vms: Sequence[tuple[str, str]]) -> list[str]:
    """Return what to call each VM, given by key and name, in a list: names alone may be equal."""
    count = Counter(name for _, name in vms)
    return [f"{name} ({key[:_SHOWN]})" if key and count[name] > 1 else name for key, name in vms]
