"""
What the pictures are drawn from, gathered from the repository in one pass over its records.

Owns which records are read, each once, and the bounds of what is kept of them; draws nothing.
Invariant: no data is read, and what is drawn of many VMs is bounded and says how many it leaves
out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.console.pictures.attention import (
    SHOWN,
    Detail,
    Item,
    Seen,
    attention,
    late,
)
from airflow_provider_azstack.console.pictures.days import Cell, Days, good_points
from airflow_provider_azstack.console.pictures.timeline import Timeline, timeline
from airflow_provider_azstack.console.pictures.words import clean
from airflow_provider_azstack.errors import (
    ConfigurationError,
    IncompatibleRepository,
    IntegrityError,
)
from airflow_provider_azstack.model import JobRecord
from airflow_provider_azstack.repo.points import flags, holds
from airflow_provider_azstack.repo.points.namesakes import distinct
from airflow_provider_azstack.repo.reports import (
    Coverage,
    JobRow,
    Told,
    UsageRow,
    coverage_of,
    job_row,
    usage_rows,
)
from airflow_provider_azstack.repo.verify.record_check import Named
from airflow_provider_azstack.secret import without_query

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

VMS_SHOWN = 200
JOBS_SHOWN = 30
MOST_DAYS = 90


class Wanted(NamedTuple):
    """What the page shall show."""

    zone: tzinfo
    days: int = 30
    max_age_hours: float = 0.0
    run: str = ""  # of the job whose timeline is drawn; "" is the newest
    usage: bool = False  # reads what points consist of: much more than all the rest


class VmDays(NamedTuple):
    """One VM, day by day."""

    vm: str
    status: str
    policy: str
    reason: str
    age_hours: float | None
    cells: tuple[Cell, ...]


class JobFact(NamedTuple):
    """How a job went, and what was expected of it."""

    row: JobRow
    ended_at: datetime
    expected_end: datetime | None
    stop_starting_at: datetime | None
    stop_running_at: datetime | None


class Facts(NamedTuple):
    """Everything that the page shows."""

    repository_id: str
    url: str
    made_at: datetime  # in the zone of all the page's moments
    attention: tuple[Item, ...]
    statuses: dict[str, int]  # of all VMs
    verified: int  # VMs with a verified point
    verified_at: datetime | None  # when the last verification ended
    points: int
    dates: tuple[date, ...]
    vms: tuple[VmDays, ...]  # those that need attention most
    late: int  # VMs without a restore point that is young enough
    jobs: tuple[JobFact, ...]  # the newest first
    all_jobs: int
    grown: tuple[tuple[datetime, int], ...]  # what each job stored, oldest first
    timeline: Timeline | None
    usage: tuple[UsageRow, ...] | None

    @property
    def all_vms(self) -> int:
        """How many VMs are known."""
        return sum(self.statuses.values())


def gather(repository: "Repository", wanted: Wanted) -> Facts:
    """
    Read what the page shows.

    :raises ConfigurationError: there is no job of that run.
    """
    told = Told.of(repository)
    now = told.now.astimezone(wanted.zone)
    days = Days(now, wanted.days, good_points(told.verifications), told.flagged)
    noted = _Noted(told.flagged, wanted.run)
    points = noted.points(days.points(told.points))
    jobs = noted.jobs(days.jobs(told.jobs))
    rows = coverage_of(told._replace(points=points, jobs=jobs))
    names = distinct([(row.vm_key, row.vm) for row in rows])
    rows = [row._replace(vm=name) for row, name in zip(rows, names, strict=True)]
    drawn = _timeline(repository, noted)
    last = told.verifications[-1] if told.verifications else None
    return Facts(
        repository_id=repository.id,
        url=without_query(repository.store.url),
        made_at=now,
        attention=tuple(attention(_seen(repository, told, wanted, noted, rows))),
        statuses=dict(Counter(row.status for row in rows)),
        verified=sum(bool(row.verified_point) for row in rows),
        verified_at=last.at if last else None,
        points=noted.count,
        dates=days.dates,
        vms=tuple(_shown(rows, days, wanted.max_age_hours)),
        late=len(late(rows, wanted.max_age_hours)),
        jobs=tuple(sorted(noted.facts, key=_began, reverse=True)[:JOBS_SHOWN]),
        all_jobs=len(noted.facts),
        grown=tuple(sorted((fact.ended_at, fact.row.stored_bytes) for fact in noted.facts)),
        timeline=drawn,
        usage=tuple(usage_rows(repository, "policy")) if wanted.usage else None,
    )


def expected_end(record: JobRecord) -> datetime | None:
    """Return when a job was expected to end; None where nothing was."""
    ends = (f.made_at + timedelta(seconds=f.end_seconds) for f in record.forecast)
    return max(ends, default=None)


class _Noted:
    """What is kept of points and jobs that pass."""

    def __init__(self, flagged: Iterable[tuple[str, str]], run: str) -> None:
        self.count = 0
        self.unreadable: list[Detail] = []
        self.flagged: list[tuple[str, str, str]] = []  # VM, its key, the point's id
        self.oldest: dict[str, datetime] = {}
        self.names: dict[str, str] = {}
        self.facts: list[JobFact] = []
        self._flagged = frozenset(flagged)
        self._run = run
        self._record: JobRecord | None = None

    def points(self, found: Iterable[Named]) -> Iterator[Named]:
        """Pass restore points on."""
        for named in found:
            self.count += 1
            if (point := named.point) is None:
                self.unreadable.append(Detail(named.name, clean(named.problem)))
            else:
                key = point.vm.key
                self.names[key] = clean(point.vm.name)
                self.oldest[key] = min(self.oldest.get(key, point.taken_at), point.taken_at)
                if (key, point.id) in self._flagged:
                    self.flagged.append((self.names[key], key, point.id))
            yield named

    def jobs(self, records: Iterable[JobRecord]) -> Iterator[JobRecord]:
        """Pass jobs on."""
        for record in records:
            row = job_row(record)
            job = record.job
            self.facts.append(
                JobFact(
                    row=row._replace(policy=clean(row.policy)),
                    ended_at=record.ended_at,
                    expected_end=expected_end(record),
                    stop_starting_at=job.stop_starting_at,
                    stop_running_at=job.stop_running_at,
                )
            )
            if self._is_wanted(record):
                self._record = record
            yield record

    def job(self) -> JobRecord | None:
        """Return the job whose timeline is drawn, of those that passed."""
        if self._run and self._record is None:
            raise ConfigurationError(
                f"the repository has no job {self._run!r}: 'azstack jobs -o json' lists them"
            )
        return self._record

    def _is_wanted(self, record: JobRecord) -> bool:
        if self._run:
            return record.job.run == self._run
        return self._record is None or record.started_at > self._record.started_at


def _timeline(repository: "Repository", noted: _Noted) -> Timeline | None:
    """Return the job's timeline; a record that is damaged is noted, and hides nothing else."""
    record = noted.job()
    try:
        return timeline(repository, record) if record else None
    except (IntegrityError, IncompatibleRepository) as error:
        noted.unreadable.append(Detail("one job", clean(str(error))))
        return None


def _seen(
    repository: "Repository", told: Told, wanted: Wanted, noted: _Noted, rows: Sequence[Coverage]
) -> Seen:
    held = Counter(noted.names.get(key, key) for key, _ in holds.held_points(repository))
    return Seen(
        now=told.now,
        zone=wanted.zone,
        rows=rows,
        verifications=told.verifications,
        unreadable=noted.unreadable,
        flagged=list(_flagged(repository, noted.flagged)),
        held=held,
        oldest=noted.oldest,
        max_age_hours=wanted.max_age_hours,
    )


def _flagged(repository: "Repository", points: Sequence[tuple[str, str, str]]) -> Iterator[Detail]:
    """Yield the flagged points, the newest first; why, is only read of those that are shown."""
    newest = sorted(points, key=lambda one: one[2], reverse=True)
    for number, (vm, key, point) in enumerate(newest):
        reasons = flags.reasons(repository, key, point) if number < SHOWN else ()
        yield Detail(vm, f"{point}: {clean('; '.join(reasons))}")


def _shown(rows: Sequence[Coverage], days: Days, max_age_hours: float) -> Iterator[VmDays]:
    """Yield the VMs that need attention most: as the coverage orders them, but stale ones first."""
    stale = set(map(id, late(rows, max_age_hours)))
    order = ("missing", "unprotected", "failing", "protected")

    def need(row: Coverage) -> tuple[int, bool, bool, bool]:
        is_unverified = not row.verified_point
        return order.index(row.status), id(row) not in stale, not row.suspicious, not is_unverified

    for row in sorted(rows, key=need)[:VMS_SHOWN]:
        yield VmDays(
            vm=clean(row.vm),
            status=row.status,
            policy=clean(row.policy),
            reason=clean(row.reason),
            age_hours=row.age_hours,
            cells=tuple(days.cells(row.vm_key, row.vm_id)),
        )


def _began(fact: JobFact) -> tuple[datetime, str]:
    return fact.row.started_at, fact.row.run
