"""
What restores leave on a stack when they are killed: half-written disks, and trials of restores.

Owns what of it is ours: what a plan that is sealed in the repository says that it makes, and that
carries the plan's mark on the stack. Invariants: of a restore that was meant only what is half
written goes, of a trial everything; nothing goes while a session of that plan lives, and nothing
that another plan, or anybody else, has put in its place.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.execute import opened
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    PREFIX,
    PlannedDisk,
    PlannedResource,
    RestorePlan,
    each_disk,
    plan_name,
)
from airflow_provider_azstack.engine.restore.standing import Standing, look, staged
from airflow_provider_azstack.engine.restore.writing import Restore
from airflow_provider_azstack.errors import AzStackError, ObjectExists, Refused
from airflow_provider_azstack.model import Moment, Record
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

_TRIAL = re.compile(r"rehearsal-([0-9a-f]{8})")  # the name of a trial's run
_SETTLED = "settled"


class Settled(Record, frozen=True, kw_only=True):
    """A run of a plan of which nothing is left on the stack."""

    at: Moment


class Trace(NamedTuple):
    """One thing that a plan made."""

    place: str  # ARM id, or URL of a blob
    vm_key: str
    remove: Callable[[], object]


class LeftPlan(NamedTuple):
    """A plan whose runs are over."""

    plan: RestorePlan
    runs: tuple[str, ...]  # those of which something may be left

    @property
    def is_trial(self) -> bool:
        """
        Tell whether everything that it made is to go.

        A run of somebody's DAG might be called as a trial's is; then its disks are not.
        """
        marks = {match[1] for run in self.runs if (match := _TRIAL.fullmatch(run))}
        names = {disk.name for _, disk in each_disk(self.plan)}
        (mark,) = marks if len(marks) == len(self.runs) == 1 else ("",)
        return bool(mark and names) and all(name.startswith(trial_name(mark)) for name in names)


def trial_run(mark: str) -> str:
    """Return the name of the run of a trial; ``mark`` is eight hexadecimal digits."""
    return f"rehearsal-{mark}"


def trial_name(mark: str) -> str:
    """Return what the names of everything that a trial makes begin with."""
    return f"azstack-trial-{mark}"


def runs_of_plans(repository: Repository) -> dict[str, set[str]]:
    """Return plan -> its runs of which something may be left on a stack."""
    runs: dict[str, set[str]] = defaultdict(set)
    settled: dict[str, set[str]] = defaultdict(set)
    for info in repository.store.list(PREFIX):
        parts = info.name.split("/")
        if len(parts) == 4 and parts[2] in {"plan", _SETTLED}:
            (runs if parts[2] == "plan" else settled)[parts[1]].add(parts[3])
    left = {plan: of_plan - settled[plan] for plan, of_plan in runs.items()}
    return {plan: of_plan for plan, of_plan in left.items() if of_plan}


def living_runs(repository: Repository) -> set[str] | None:
    """Return the runs that are not over, or None when a session does not say whose it is."""
    infos = list(repository.sessions().values())
    return None if None in infos else {info.run for info in infos if info}


def left_plans(
    stack: Stack,
    repository: Repository,
    runs: dict[str, set[str]],
    living: Collection[str] | None = (),
) -> Iterator[LeftPlan]:
    """
    Yield the plans for this stack whose runs are over.

    :param runs: listed before ``living`` was: a plan that began later is not in it.
    :param living: runs that are not over; None: nobody knows, and all of them may live.
    """
    for plan_id, of_plan in sorted(runs.items()):
        if living is None or of_plan & set(living):
            continue
        try:
            plan = repository.records.get(plan_name(plan_id, min(of_plan)), RestorePlan)
        except AzStackError as error:
            log.warning("what restore %s left is kept: its plan cannot be read: %s", plan_id, error)
            continue
        if (plan.stack, plan.repository) == (stack.name, repository.id):
            yield LeftPlan(plan, tuple(sorted(of_plan)))


def traces(restore: Restore, *, is_trial: bool) -> Iterator[Trace]:
    """Yield what is there of a plan and is to go, in the order in which it can."""
    if is_trial:
        for vm in restore.plan.vms:
            for resource in sorted(vm.resources, key=lambda one: one.id != vm.target):
                if _is_marked(restore, resource):
                    yield Trace(resource.id, vm.key, partial(_delete, restore, resource))
    for vm, disk in each_disk(restore.plan):
        try:
            there = look(restore, vm, disk)
            there = staged(there) if disk.staging and disk.way == "upload" else there
        except Refused:
            continue  # somebody else's
        is_left = there.found is not None and (is_trial or COMPLETE not in there.done())
        if is_left and (is_trial or not _is_attached(restore, disk)):
            yield Trace(disk.id, vm.key, partial(_discard, there, is_trial=is_trial))


def settle(repository: Repository, left: LeftPlan) -> None:
    """Note that nothing is left of runs of a plan: nobody looks for it again."""
    for run in left.runs:
        name = f"{PREFIX}{left.plan.id}/{_SETTLED}/{run}"
        with suppress(ObjectExists):
            repository.records.put(name, Settled(at=repository.now()))


def remove_trial(stack: Stack, session: Session, plan: RestorePlan) -> None:
    """
    Remove all that a trial made.

    :raises AzStackError: the first error; all the rest was tried.
    """
    first_error: AzStackError | None = None
    with opened(stack, session, plan, log.info) as restore:
        for trace in traces(restore, is_trial=True):
            try:
                trace.remove()
            except AzStackError as error:
                log.warning("%s is left: %s", trace.place, error)
                first_error = first_error or error
    if first_error:
        raise first_error


def remove_dead_trials(stack: Stack, session: Session) -> None:
    """Remove what trials left that were killed; what cannot be removed is left to the janitor."""
    repository = session.repository
    runs = runs_of_plans(repository)
    for left in left_plans(stack, repository, runs, living_runs(repository)):
        if left.is_trial:
            with suppress(AzStackError):  # each is in the log
                remove_trial(stack, session, left.plan)
                settle(repository, left)


def _is_attached(restore: Restore, disk: PlannedDisk) -> bool:
    """Tell whether a VM has a managed disk: then it is in use, whatever the notes say."""
    body = restore.stack.find(disk.id) if disk.way != "blob" else None
    return bool((body or {}).get("managedBy"))


def _is_marked(restore: Restore, resource: PlannedResource) -> bool:
    body = restore.stack.find(resource.id)
    return body is not None and (body.get("tags") or {}).get(TAG) == restore.plan.id


def _delete(restore: Restore, resource: PlannedResource) -> None:
    if _is_marked(restore, resource):
        restore.stack.delete(resource.id)


def _discard(there: Standing, *, is_trial: bool) -> None:
    # Looked at again: the try that it is of may have ended well while others were removed.
    if is_trial or COMPLETE not in there.done():
        there.target.discard()
