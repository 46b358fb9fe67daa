"""
What restores leave on a stack when they are killed: half-written disks, and trials of restores.

Owns what of it is ours: what a plan that is sealed in the repository says that it makes, and that
carries the plan's mark on the stack. Invariants: of a restore that was meant only what is half
written goes, of a trial everything; nothing goes while a session of that plan lives, and nothing
that another plan, or anybody else, has put in its place. A plan is settled when nothing is left of
it that anybody has to clean up, and its user neither.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.execute import opened
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    PlannedDisk,
    PlannedResource,
    PlannedVm,
    RestorePlan,
    each_disk,
)
from airflow_provider_azstack.engine.restore.safety import ReplaceNotes, is_there
from airflow_provider_azstack.engine.restore.standing import Standing, look, staged
from airflow_provider_azstack.engine.restore.writing import Restore
from airflow_provider_azstack.errors import AzStackError, Refused
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import Try, plan_name
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

_TRIAL = re.compile(r"rehearsal-([0-9a-f]{8})")  # the name of a trial's run


class Trace(NamedTuple):
    """One thing that a plan made."""

    place: str  # ARM id, or URL of a blob
    vm_key: str
    remove: Callable[[], object]


class LeftPlan(NamedTuple):
    """A plan whose tries are over."""

    plan: RestorePlan
    tries: tuple[Try, ...]  # those of which something may be left

    @property
    def is_trial(self) -> bool:
        """
        Tell whether everything that it made is to go.

        A run of somebody's DAG might be called as a trial's is; then its disks are not.
        """
        marks = {match[1] for one in self.tries if (match := _TRIAL.fullmatch(one.run))}
        names = {disk.name for _, disk in each_disk(self.plan)}
        (mark,) = marks if len(marks) == len(self.tries) == 1 else ("",)
        return bool(mark and names) and all(name.startswith(trial_name(mark)) for name in names)


def trial_run(mark: str) -> str:
    """Return the name of the run of a trial; ``mark`` is eight hexadecimal digits."""
    return f"rehearsal-{mark}"


def trial_name(mark: str) -> str:
    """Return what the names of everything that a trial makes begin with."""
    return f"azstack-trial-{mark}"


def living_runs(repository: Repository) -> set[str] | None:
    """Return the runs that are not over, or None when a session does not say whose it is."""
    infos = list(repository.sessions().values())
    return None if None in infos else {info.run for info in infos if info}


def left_plans(
    stack: Stack,
    repository: Repository,
    tries: dict[str, set[Try]],
    living: Collection[str] | None = (),
) -> Iterator[LeftPlan]:
    """
    Yield the plans for this stack whose tries are over.

    :param tries: listed before ``living`` was: one that began later is not in it.
    :param living: runs that are not over; None: nobody knows, and all of them may live.
    """
    for plan_id, of_plan in sorted(tries.items()):
        if living is None or {one.run for one in of_plan} & set(living):
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
            is_left = there.found is not None and (is_trial or COMPLETE not in there.done())
        except Refused:
            continue  # somebody else's, or nothing is known of it any more
        if is_left and (is_trial or not _is_attached(restore, disk)):
            yield Trace(disk.id, vm.key, partial(_discard, there, is_trial=is_trial))


def kept(restore: Restore) -> Iterator[str]:
    """Yield what is there for going back, and that only a user removes or puts right."""
    for vm in restore.plan.vms:
        if vm.occupant:
            yield from _kept(restore, vm)


def _kept(restore: Restore, vm: PlannedVm) -> Iterator[str]:
    stack, accounts = restore.stack, restore.accounts
    notes = ReplaceNotes(restore.session.repository, restore.plan.id, vm.key)
    if notes.open():
        yield vm.target
    for safety in notes.safeties():
        if is_there(stack, accounts, safety):
            yield f"{safety.id} {safety.blob_snapshot}".strip()
    for disk in vm.replaces:
        if disk.place.startswith("/"):
            body = stack.find(disk.place)
            is_kept = body is not None and not body.get("managedBy")
        else:
            blob = accounts.properties(disk.place) if disk.place else None
            is_kept = blob is not None and not blob.is_leased
        if is_kept:
            yield disk.place


def settle(restore: Restore, left: LeftPlan) -> None:
    """
    Note that nothing is left of a plan's tries, if so: nobody looks for it again.

    What cannot be looked at may be there.
    """
    try:
        still = next(kept(restore), "")
    except AzStackError as error:
        log.warning("the records of restore %s stay: %s", left.plan.id, error)
        return
    if still:
        log.info("the records of restore %s stay: there is %s", left.plan.id, still)
        return
    restores.settle(restore.session.repository, left.plan.id, left.tries)


def remove_trial(stack: Stack, session: Session, left: LeftPlan) -> None:
    """
    Remove all that a trial made, and note it.

    :raises AzStackError: the first error; all the rest was tried.
    """
    first_error: AzStackError | None = None
    with opened(stack, session, left.plan, log.info) as restore:
        for trace in traces(restore, is_trial=True):
            try:
                trace.remove()
            except AzStackError as error:
                log.warning("%s is left: %s", trace.place, error)
                first_error = first_error or error
        if first_error:
            raise first_error
        settle(restore, left)


def remove_dead_trials(stack: Stack, session: Session) -> None:
    """Remove what trials left that were killed; what cannot be removed is left to the janitor."""
    repository = session.repository
    tries = restores.unsettled(repository)
    for left in left_plans(stack, repository, tries, living_runs(repository)):
        if left.is_trial:
            with suppress(AzStackError):  # each is in the log
                remove_trial(stack, session, left)


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
