"""
Reports: what is protected, how fresh and how well checked it is, how jobs went, what it costs.

Owns what the rows say; knows no table and no console. Everything is told by the repository alone.
Invariant: a VM that any job ever saw is in the coverage, above all when it has no restore point;
but not when somebody forgot its last ones, and no job has seen it since.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from airflow_provider_azstack.model import JobRecord, JobVm, RestorePoint
from airflow_provider_azstack.repo.points import census, flags
from airflow_provider_azstack.repo.usage import Usage, usage
from airflow_provider_azstack.repo.verify import ledger
from airflow_provider_azstack.repo.verify.record_check import Named, read_points

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

# protected: a point, and the last job was well. failing: a point, but the last job was not.
# missing: jobs tried, and there is no point. unprotected: the policy cannot back it up.
Status = Literal["protected", "failing", "missing", "unprotected"]
By = Literal["vm", "policy"]

THREADS = 4
GROWTH_DAYS = 30


class JobRow(NamedTuple):
    """How a compound job went."""

    run: str
    policy: str
    status: str
    started_at: datetime
    seconds: int
    vms: int
    failed: int
    skipped: int
    unprotected: int
    changed_bytes: int
    read_bytes: int
    stored_bytes: int
    hosts: tuple[str, ...]  # that its VMs were given to


class Coverage(NamedTuple):
    """How one VM is protected; ages are in hours, None without such a point."""

    vm: str
    status: Status
    newest_point: str
    age_hours: float | None
    verified_point: str
    verified_age_hours: float | None  # of what that point holds, not of its verification
    read_since: datetime | None  # when the stalest part of it was last read
    suspicious: int  # restore points flagged as such
    policy: str
    reason: str
    vm_key: str
    vm_id: str


class UsageRow(NamedTuple):
    """What a VM or a policy costs."""

    name: str
    points: int
    needed_bytes: int  # of packs, for all of its restore points
    unique_bytes: int  # of those, what forgetting all of them would free
    shared_bytes: int
    growth_bytes_per_day: int
    key: str  # of a VM; a policy's is its name


class _Vm:
    """What is known of one VM so far."""

    def __init__(self, name: str, vm_id: str = "") -> None:
        self.name = name
        self.id = vm_id
        self.point: tuple[datetime, str] | None = None
        self.points: list[str] = []
        self.policy = ""
        self.last: JobVm | None = None
        self.last_at = (datetime.min.replace(tzinfo=UTC), "")
        self.reason = ""
        self.is_unprotected = False


class Told(NamedTuple):
    """What the repository tells, read once; the points and the jobs as they come."""

    now: datetime
    points: Iterable[Named]  # by VM, each VM's oldest first
    jobs: Iterable[JobRecord]  # the newest record of each, in no order
    verifications: Sequence[ledger.Verified]  # that came to their end, oldest first
    flagged: AbstractSet[tuple[str, str]]  # VM key and id of each suspicious point
    forgotten: AbstractSet[str]  # `<vm>/<point>` of each that somebody took away

    @classmethod
    def of(cls, repository: "Repository") -> "Told":
        """Begin to read."""
        now = repository.now()
        return cls(
            now=now,
            points=read_points(repository.records, THREADS),
            jobs=repository.each_job(),
            verifications=ledger.outcomes(repository.records, now),
            flagged=flags.flagged(repository),
            forgotten=census.forgotten(repository, is_meant=True),
        )


def job_rows(repository: "Repository", *, last: int = 0) -> list[JobRow]:
    """
    Return how jobs went, oldest first.

    :param last: only so many, the newest; 0 is all.
    """
    rows = [job_row(record) for record in repository.each_job()]
    return sorted(rows, key=lambda row: (row.started_at, row.run))[-last:]


def coverage(repository: "Repository") -> list[Coverage]:
    """Return how each VM is protected, those that are not before all others."""
    return coverage_of(Told.of(repository))


def coverage_of(told: Told) -> list[Coverage]:
    """Return the same of what was read already."""
    now = told.now
    vms = _vms_of_points(told.points)
    _add_jobs(vms, told.jobs)
    verified = ledger.last_word(told.verifications)
    rows = []
    for key, vm in vms.items():
        if _is_over(key, vm, told.forgotten):
            continue
        good = verified.get(key)
        rows.append(
            Coverage(
                vm=vm.name,
                status=_status(vm),
                newest_point=vm.point[1] if vm.point else "",
                age_hours=_hours(now, vm.point[0] if vm.point else None),
                verified_point=good.point if good else "",
                verified_age_hours=_hours(now, good.taken_at if good else None),
                read_since=good.read_since if good else None,
                suspicious=sum((key, point) in told.flagged for point in vm.points),
                policy=vm.policy,
                reason=vm.reason,
                vm_key="" if key == vm.id else key,
                vm_id=vm.id,
            )
        )
    order = ("missing", "unprotected", "failing", "protected")
    return sorted(rows, key=lambda row: (order.index(row.status), row.vm, row.vm_key))


def usage_rows(repository: "Repository", by: By, *, threads: int = THREADS) -> list[UsageRow]:
    """Return what each VM or each policy costs, the dearest first."""
    names: dict[str, str] = {}

    def owner_of(point: RestorePoint) -> str:
        key = point.vm.key if by == "vm" else point.policy
        names[key] = point.vm.name if by == "vm" else point.policy
        return key

    found = usage(repository, owner_of, threads=threads)
    growth = _growth(repository.jobs(), by, repository.now())
    rows = [_usage_row(one, names[one.owner], growth.get(one.owner, 0)) for one in found]
    return sorted(rows, key=lambda row: row.needed_bytes, reverse=True)


def job_row(record: JobRecord) -> JobRow:
    """Return how a compound job went."""
    vms = record.vms
    return JobRow(
        run=record.job.run,
        policy=record.job.policy,
        status=record.status,
        started_at=record.started_at,
        seconds=round((record.ended_at - record.started_at).total_seconds()),
        vms=len(vms),
        failed=sum(vm.status == "failed" for vm in vms),
        skipped=sum(vm.status == "skipped" for vm in vms),
        unprotected=len(record.unprotected),
        changed_bytes=sum(vm.changed_bytes for vm in vms),
        read_bytes=sum(vm.read_bytes for vm in vms),
        stored_bytes=sum(vm.stored_bytes for vm in vms),
        hosts=tuple(sorted({host for vm in vms for host in vm.hosts})),
    )


def _vms_of_points(points: Iterable[Named]) -> dict[str, _Vm]:
    """Take up every readable point; unreadable ones are what verification is about."""
    vms: dict[str, _Vm] = {}
    for _, point, _ in points:
        if point is not None:
            _take_point(vms.setdefault(point.vm.key, _Vm(point.vm.name)), point)
    return vms


def _take_point(vm: _Vm, point: RestorePoint) -> None:
    vm.points.append(point.id)
    if vm.point is None or point.taken_at >= vm.point[0]:
        vm.point = (point.taken_at, point.id)
        vm.name, vm.id, vm.policy = point.vm.name, point.vm.id, point.policy


def _add_jobs(vms: dict[str, _Vm], jobs: Iterable[JobRecord]) -> None:
    newest: dict[str, JobRecord] = {}
    for record in jobs:
        before = newest.get(record.job.policy)
        if before is None or _age(record) > _age(before):
            newest[record.job.policy] = record
        for one in record.vms:
            vm = vms.setdefault(one.key, _Vm(one.name))
            if _age(record) > vm.last_at:  # the last word is the newest job's
                vm.last, vm.last_at = one, _age(record)
                vm.policy, vm.reason = record.job.policy, one.reason
    known = {vm.id.lower(): vm for vm in vms.values() if vm.id}
    for record in newest.values():
        for unprotected in record.unprotected:
            vm = known.get(unprotected.id.lower()) or vms.setdefault(
                unprotected.id, _Vm(unprotected.name, unprotected.id)
            )
            vm.is_unprotected = True
            vm.policy, vm.reason = record.job.policy, unprotected.reason


def _age(record: JobRecord) -> tuple[datetime, str]:
    return record.started_at, record.job.run


def _status(vm: _Vm) -> Status:
    if vm.is_unprotected:
        return "unprotected"
    if vm.point is None:
        return "missing"
    return "failing" if vm.last is not None and vm.last.status == "failed" else "protected"


def _is_over(key: str, vm: _Vm, forgotten: AbstractSet[str]) -> bool:
    """Tell whether a VM's restore points were all forgotten, after the last job that saw it."""
    if vm.point or vm.last is None or vm.is_unprotected:
        return False
    return f"{key}/{vm.last.point}" in forgotten


def _hours(now: datetime, then: datetime | None) -> float | None:
    return None if then is None else round((now - then).total_seconds() / 3600, 1)


def _growth(jobs: Iterable[JobRecord], by: By, now: datetime) -> dict[str, int]:
    """
    Return what was stored per day, lately, by VM or by policy.

    The first backup of each VM is left out: it is what growth begins with.
    """
    stored = defaultdict[str, int](int)
    first: dict[str, datetime] = {}
    since = now - timedelta(days=GROWTH_DAYS)
    begun = set[str]()
    for record in jobs:
        for vm in record.vms:
            owner = vm.key if by == "vm" else record.job.policy
            first.setdefault(owner, record.started_at)
            if vm.key in begun and record.started_at > since:
                stored[owner] += vm.stored_bytes
            if vm.point:
                begun.add(vm.key)
    return {
        owner: round(size / max((now - max(first[owner], since)) / timedelta(days=1), 1.0))
        for owner, size in stored.items()
    }


def _usage_row(one: Usage, name: str, growth: int) -> UsageRow:
    return UsageRow(
        name=name,
        key=one.owner,
        points=one.points,
        needed_bytes=one.needed_bytes,
        unique_bytes=one.unique_bytes,
        shared_bytes=one.shared_bytes,
        growth_bytes_per_day=growth,
    )
