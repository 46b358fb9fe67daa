"""
Forgetting restore points: chosen ones, or those that a rule does not keep.

Owns the order of notes and deletions; frees no room, which is the collector's work.
Invariants: **G1** nothing is deleted before all points asked for are known to be free of holds
and, where a VM would be left without any, before that was confirmed; **G2** what goes is noted
under ``forgotten/`` first, then living sessions are told, then holds are looked at once more;
**G3** only then deleted. Who holds a point looks for such a note after that, and who publishes one
for what his session was told: of two at once, one sees the other.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from airflow_provider_azstack.errors import (
    ConfigurationError,
    ObjectHeld,
    ObjectNotFound,
    Refused,
)
from airflow_provider_azstack.model import RestorePoint, Retention
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.points import census, flags, retention
from airflow_provider_azstack.repo.points.holds import held_points
from airflow_provider_azstack.repo.points.retention import Decision, PointKey

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

THREADS = 8


class Forgotten(NamedTuple):
    """What became of the points that were to be forgotten."""

    points: tuple[PointKey, ...]
    held: dict[PointKey, str]  # those that are still there, and why


def forget(
    repository: "Repository",
    points: Iterable[PointKey],
    *,
    confirm: str = "",
    dry_run: bool = False,
) -> Forgotten:
    """
    Take restore points away. One that is gone already is forgotten all the same.

    :param confirm: the repository's id, when a VM shall be left without any point.
    :param dry_run: only check that it may be done.
    :raises Refused: a point is on legal hold, or that confirmation is missing; none was forgotten.
    :raises ConfigurationError: there is no such point, and never was.
    """
    chosen = sorted(set(points))
    if not chosen:
        return Forgotten((), {})
    _check(repository, chosen, confirm)  # G1
    if dry_run:
        return Forgotten((), {})
    names = {key: "/".join(key) for key in chosen}
    census.put_forgotten(repository, names.values())  # G2
    census.leave_word(repository, names.values())
    held = dict.fromkeys(held_points(repository) & set(chosen), "it was put on legal hold just now")
    free = [key for key in chosen if key not in held]
    outcomes = in_parallel(partial(_delete, repository), free, _threads(repository))  # G3
    held |= {key: why for key, why in zip(free, outcomes, strict=True) if why}
    gone = tuple(key for key in chosen if key not in held)
    if held:  # what is still there shall be missed when it is not
        census.recall(repository, {names[key] for key in held})
    return Forgotten(gone, held)


def _delete(repository: "Repository", key: PointKey) -> str:
    """Delete a point; return why the store does not let it go, if so."""
    vm, point = key
    try:
        with contextlib.suppress(ObjectNotFound):
            repository.store.delete(f"{census.POINTS}{vm}/{point}")
    except ObjectHeld as error:
        return str(error)
    return ""


def _threads(repository: "Repository") -> int:
    return at_once(repository.store, THREADS)


def plan(
    repository: "Repository",
    rule: Retention,
    *,
    policy: str = "",
    vm_keys: Collection[str] | None = None,
) -> list[Decision]:
    """
    Decide by a rule which points stay, and why, without touching any.

    :param policy: only points that this policy made.
    :param vm_keys: only points of these VMs.
    :raises Tampered: a point is unreadable: a decision without it would be about something else.
    """
    names = [
        info.name
        for info in repository.store.list(census.POINTS)
        if vm_keys is None or info.name.split("/")[1] in vm_keys
    ]
    read = in_parallel(partial(_essence, repository), names, _threads(repository))
    return retention.decide(
        (point for point in read if point is not None and policy in {"", point.policy}),
        rule,
        now=repository.now(),
        held=held_points(repository),
        doubtful=_flagged(repository),
    )


def forget_by_rule(
    repository: "Repository",
    rule: Retention,
    *,
    policy: str = "",
    vm_keys: Collection[str] | None = None,
    dry_run: bool = False,
    confirm: str = "",
) -> tuple[list[Decision], Forgotten]:
    """
    Forget the points that a rule does not keep; see ``plan`` and ``forget``.

    :raises Refused: the rule keeps nothing but the newest points, and that was not confirmed.
    """
    if retention.keeps_nothing(rule) and confirm != repository.id:
        raise Refused(
            "this rule keeps no point but the newest: confirm that with the repository's id, "
            f"{repository.id}"
        )
    decisions = plan(repository, rule, policy=policy, vm_keys=vm_keys)
    gone = [] if dry_run else [decision.key for decision in decisions if not decision.is_kept]
    return decisions, forget(repository, gone, confirm=confirm)


def _check(repository: "Repository", chosen: Collection[PointKey], confirm: str) -> None:
    on_hold = held_points(repository) & set(chosen)
    if on_hold:
        vm, point = min(on_hold)
        others = f", and {len(on_hold) - 1} others" if len(on_hold) > 1 else ""
        raise Refused(
            f"restore point {point} of VM {vm} is on legal hold{others}: nothing was forgotten; "
            "'azstack hold remove' lifts a hold"
        )
    listed = {info.name for info in repository.store.list(census.POINTS)}
    left = Counter(name.split("/")[1] for name in listed)
    unknown = [key for key in chosen if "{}{}/{}".format(census.POINTS, *key) not in listed]
    if unknown:
        seen = census.recorded(repository) | census.forgotten(repository)
        for vm, point in unknown:
            if f"{vm}/{point}" not in seen:
                raise ConfigurationError(
                    f"VM {vm} has no restore point {point!r}: 'azstack points' lists their ids"
                )
    left.subtract(vm for vm, point in chosen if (vm, point) not in unknown)
    emptied = sorted(vm for vm, _ in chosen if left[vm] <= 0)
    if emptied and confirm != repository.id:
        raise Refused(
            f"VM {emptied[0]} would have no restore point left: confirm that with the "
            f"repository's id, {repository.id}"
        )


def _essence(repository: "Repository", name: str) -> RestorePoint | None:
    """Return a point without its VM's resources, or None when it went since it was listed."""
    try:
        point = repository.records.get(name, RestorePoint)
    except ObjectNotFound:
        return None
    vm = msgspec.structs.replace(point.vm, resources={}, disks=(), tags={})
    return msgspec.structs.replace(point, vm=vm, images=())


def _flagged(repository: "Repository") -> dict[PointKey, str]:
    """Return the points that were found suspicious: they never push others out."""
    return dict.fromkeys(flags.flagged(repository), "suspicious")
