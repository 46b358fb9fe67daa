"""
Find and remove what killed runs left on a stack.

Owns what counts as left: a snapshot of this repository's whose session is gone and which no
restore point counts its next changes from, a VM that was stopped for its snapshots under such a
session and not started again, the half-written disks of a restore whose session is gone, and all
that a trial of a restore made. Invariant: what belongs to a living session, to another
repository or to anybody else stays, and so does everything of a VM whose points cannot be read.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine import leftovers, names, power, traces
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.leftovers import Leftover, Sweep
from airflow_provider_azstack.engine.restore.execute import opened
from airflow_provider_azstack.errors import SourceError
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.speed import counted

log = logging.getLogger(__name__)

Action = Literal["delete", "revoke", "start"]


class Finding(NamedTuple):
    """One thing that a run left, and what is to be done, or was done, about it."""

    action: Action
    id: str
    blob_snapshot: str
    run: str
    vm_key: str

    def __str__(self) -> str:
        stamp = f" of {self.blob_snapshot}" if self.blob_snapshot else ""
        return f"{self.action} {self.id}{stamp}, left by run {self.run}"


def janitor(
    stack: Stack,
    repository: Repository,
    *,
    dry_run: bool = True,
    subscriptions: Iterable[str] = (),
) -> list[Finding]:
    """
    Return what was found; unless it is a dry run, it is gone then.

    :param subscriptions: where to look; everywhere that the application can see when empty.
    :raises SourceError: something could not be looked at or removed; all the rest was.
    """
    places = sorted(subscriptions) or sorted(
        str(body["subscriptionId"]).lower() for body in stack.subscriptions()
    )
    findings: list[Finding] = []
    with Accounts(stack, places) as accounts:
        sweep = Sweep(stack, accounts, repository.id)
        seen = [leftover for place in places for leftover in sweep.managed(place)]
        seen += sweep.unmanaged(url for place in places for url in sweep.unmanaged_disks(place))
        restored = restores.unsettled(repository)
        # The snapshots are listed before the sessions: one taken later is not in the list.
        living = repository.sessions().keys()
        findings += _vms_left_off(stack, repository, living, sweep, dry_run=dry_run)
        findings += _left_by_restores(stack, repository, restored, places, sweep, dry_run=dry_run)
        for leftover in seen:
            finding = _judged(repository, leftover, living)
            if finding and (dry_run or _done(finding, leftover, sweep)):
                findings.append(finding)
    for finding in findings:
        log.info("%s%s", "would " if dry_run else "", finding)
    if sweep.errors:
        raise SourceError(
            f"the janitor could not do {counted(len(sweep.errors), 'thing')} on {stack.name}: "
            f"{'; '.join(sweep.errors[:5])}"
        )
    return findings


def _vms_left_off(
    stack: Stack, repository: Repository, living: Iterable[str], sweep: Sweep, *, dry_run: bool
) -> list[Finding]:
    """Start the VMs that killed runs stopped. The notes' names tell; few are ever read."""
    marks = {names.session_mark(session) for session in living}
    notes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for info in repository.store.list("sets/"):
        _, run, vm_key, set_id = info.name.split("/")
        if set_id.split("-")[0] not in marks:
            notes[run, vm_key].add(set_id)
    findings = []
    for (run, vm_key), ids in notes.items():
        if not power.interrupted(ids):
            continue
        sets = [s for s in repository.sets(run, vm_key) if s.id in ids]
        finding = Finding("start", sets[0].vm.id, "", run, vm_key)
        if dry_run or sweep.do(finding.id, power.undo, stack, repository, sets):
            findings.append(finding)
    return findings


def _left_by_restores(
    stack: Stack,
    repository: Repository,
    tries: dict[str, set[restores.Try]],
    places: Collection[str],
    sweep: Sweep,
    *,
    dry_run: bool,
) -> list[Finding]:
    """Remove what killed restores, and killed trials of them, have left."""
    living = traces.living_runs(repository)
    plans = list(traces.left_plans(stack, repository, tries, living))
    known = {place.lower() for place in places}
    here = [left for left in plans if {one.lower() for one in left.plan.subscriptions} <= known]
    findings: list[Finding] = []
    if not here:
        return findings
    session = repository.open_session("janitor")
    try:
        for left in here:
            sweep.do(
                f"restore {left.plan.id}",
                lambda left=left: findings.extend(
                    _left_by_restore(stack, session, left, sweep, dry_run=dry_run)
                ),
            )
    finally:
        session.close()
    return findings


def _left_by_restore(
    stack: Stack, session: Session, left: traces.LeftPlan, sweep: Sweep, *, dry_run: bool
) -> list[Finding]:
    findings, problems = [], len(sweep.errors)
    with opened(stack, session, left.plan, log.info) as restore:
        for trace in traces.traces(restore, is_trial=left.is_trial):
            finding = Finding("delete", trace.place, "", left.tries[0].run, trace.vm_key)
            if dry_run or sweep.do(trace.place, trace.remove):
                findings.append(finding)
        if not dry_run and len(sweep.errors) == problems:
            traces.settle(restore, left)
    return findings


def _judged(repository: Repository, leftover: Leftover, living: Collection[str]) -> Finding | None:
    """Return what is to be done about a snapshot."""
    if leftover.owner.session in living:
        return None
    needed = leftovers.references(repository, leftover.owner.vm_key)
    is_needed = needed is None or leftover.place in needed
    if is_needed and not leftover.is_granted:
        return None
    return Finding(
        "revoke" if is_needed else "delete",
        leftover.id,
        leftover.blob_snapshot,
        leftover.owner.run,
        leftover.owner.vm_key,
    )


def _done(finding: Finding, leftover: Leftover, sweep: Sweep) -> bool:
    return sweep.revoke(leftover) if finding.action == "revoke" else sweep.delete(leftover)
