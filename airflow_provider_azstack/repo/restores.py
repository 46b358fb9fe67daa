"""
The records of restores: whose they are, and when they may go.

Owns the names that say so: tries of a plan, their ends, and disks that were begun. Knows neither
stacks nor what a plan says.
Invariants: nothing of a plan may go while one of its tries lives, or is not known to have left
nothing, nor for ``KEPT`` after that. What says that a disk was begun goes before what says that it
is complete: a disk of which nothing is known any more is never taken for half-written.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import IntegrityError, ObjectExists, ObjectNotFound
from airflow_provider_azstack.model import Moment, Record
from airflow_provider_azstack.store.base import ObjectInfo

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

PREFIX = "restores/"
# Who asks for a restore again wants its disks to be gone on with, or to be told that they were used
# since; who looks into one that went wrong does so sooner.
KEPT = timedelta(days=90)
_PLAN, _SETTLED, _BEGUN = "plan", "settled", "begun"
# Of a VM whose disks are replaced: the note of a stop goes before the note of its end.
_STOPPED = ".replace/stopped/"


class Noted(Record, frozen=True, kw_only=True):
    """That something was so, and when."""

    at: Moment


class Try(NamedTuple):
    """One try of a plan: a run, in a session."""

    run: str
    session: str


class Plans(NamedTuple):
    """What may be done about the records of plans."""

    over: Mapping[str, list[ObjectInfo]]  # plans of which all may go -> all
    needed: frozenset[str]  # plans of which nothing may go


def plan_name(plan: str, one: Try) -> str:
    """Return the object name of a plan as it was agreed to for a try."""
    return f"{PREFIX}{plan}/{_PLAN}/{one.run}/{one.session}"


def unsettled(repository: "Repository") -> dict[str, set[Try]]:
    """Return plan -> its tries of which something may be left on a stack."""
    found = _Found(repository)
    left = {plan: tries - found.settled[plan] for plan, tries in found.tries.items()}
    return {plan: tries for plan, tries in left.items() if tries}


def settle(repository: "Repository", plan: str, tries: Collection[Try]) -> None:
    """Note that tries of a plan have left nothing to clean up: nobody looks for it again."""
    for one in tries:
        name = f"{PREFIX}{plan}/{_SETTLED}/{one.run}/{one.session}"
        with suppress(ObjectExists):
            repository.records.put(name, Noted(at=repository.now()))


def begin(session: "Session", plan: str, vm: str, disk: str) -> None:
    """Note that a disk is about to be created; again is fine."""
    name = f"{_begun(plan, vm, disk)}{session.id}"
    with suppress(ObjectExists):
        session.repository.records.put(name, Noted(at=session.repository.now()))


def is_begun(repository: "Repository", plan: str, vm: str, disk: str) -> bool:
    """Tell whether it is still known that a disk was begun; ask for this last."""
    return next(iter(repository.store.list(_begun(plan, vm, disk))), None) is not None


def judge(repository: "Repository", living: Collection[str]) -> Plans:
    """
    Tell which plans' records may go.

    :param living: runs that are not over.
    """
    found = _Found(repository)
    over = {
        plan: found.objects[plan]
        for plan, tries in found.tries.items()
        if not {one.run for one in tries} & set(living) and _is_over(repository, found, plan)
    }
    return Plans(over, frozenset(found.tries.keys() - over.keys()))


def plan_of(name: str) -> str:
    """Return the plan that a record is of."""
    return name.split("/")[1]


def goes_first(name: str) -> bool:
    """Tell whether a record must be gone before others of its plan go."""
    return _rest(name).startswith((f"{_PLAN}/", f"{_BEGUN}/")) or _STOPPED in name


class _Found:
    """The names of all records of restores."""

    def __init__(self, repository: "Repository") -> None:
        self.tries: dict[str, set[Try]] = defaultdict(set)
        self.settled: dict[str, set[Try]] = defaultdict(set)
        self.objects: dict[str, list[ObjectInfo]] = defaultdict(list)
        for info in repository.store.list(PREFIX):
            match info.name.split("/"):
                case [_, plan, ("plan" | "settled") as what, run, session]:
                    tries = self.tries if what == _PLAN else self.settled
                    tries[plan].add(Try(run, session))
            self.objects[plan_of(info.name)].append(info)


def _is_over(repository: "Repository", found: _Found, plan: str) -> bool:
    if found.tries[plan] - found.settled[plan]:
        return False
    try:
        ends = [
            repository.records.get(info.name, Noted).at
            for info in found.objects[plan]
            if _rest(info.name).startswith(f"{_SETTLED}/")
        ]
    except (IntegrityError, ObjectNotFound) as error:
        log.warning("what is noted of restore %s is kept: %s", plan, error)
        return False
    return max(ends) <= repository.now() - KEPT


def _rest(name: str) -> str:
    return name.removeprefix(f"{PREFIX}{plan_of(name)}/")


def _begun(plan: str, vm: str, disk: str) -> str:
    return f"{PREFIX}{plan}/{_BEGUN}/{vm}.{disk}/"
