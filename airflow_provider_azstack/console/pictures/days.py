"""
What happened to each VM on each day.

Owns the marks of a day and their order of precedence; reads nothing: points and jobs pass through.
Invariant: memory grows by a byte for each VM and day, however many points and jobs there are, and
by a line for each day on which a VM failed.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta, tzinfo
from typing import Literal, NamedTuple

from airflow_provider_azstack.console.pictures.words import clean
from airflow_provider_azstack.model import JobRecord, RestorePoint
from airflow_provider_azstack.repo.verify.ledger import Verified
from airflow_provider_azstack.repo.verify.record_check import Named

State = Literal["flagged", "verified", "point", "failed", "gone", "none"]

_POINT, _VERIFIED, _FLAGGED, _FAILED, _MADE, _SKIPPED = (1 << n for n in range(6))
# What a cell shows, most telling first, and how that is said.
_STATES: tuple[tuple[int, State, str], ...] = (
    (_FLAGGED, "flagged", "restore point that looks suspicious"),
    (_VERIFIED, "verified", "verified restore point"),
    (_POINT, "point", "restore point"),
    (_FAILED, "failed", "failed"),
    (_MADE, "gone", "restore point, forgotten since"),
    (_SKIPPED, "none", "skipped, as the policy asks"),
    (0, "none", "no restore point"),
)


class Cell(NamedTuple):
    """One VM on one day."""

    state: State
    text: str


class Days:
    """
    The last days by a clock on the wall, and what is known of them.

    :param now: in the time zone whose days are counted.
    :param verified: VM key and id of the points that are known to be good.
    :param flagged: of those that look suspicious.
    """

    def __init__(
        self,
        now: datetime,
        count: int,
        verified: AbstractSet[tuple[str, str]],
        flagged: AbstractSet[tuple[str, str]],
    ) -> None:
        first = now.date() - timedelta(days=count - 1)
        self.dates = tuple(first + timedelta(days=n) for n in range(count))
        self._zone = now.tzinfo
        self._verified, self._flagged = verified, flagged
        self._marks: dict[str, bytearray] = {}
        self._reasons: dict[tuple[str, int], str] = {}

    def points(self, found: Iterable[Named]) -> Iterator[Named]:
        """Pass restore points on, and mark their days."""
        for named in found:
            if named.point is not None:
                self._take_point(named.point)
            yield named

    def jobs(self, records: Iterable[JobRecord]) -> Iterator[JobRecord]:
        """Pass jobs on, and mark their days."""
        for record in records:
            self._take_job(record)
            yield record

    def cells(self, vm_key: str, vm_id: str) -> list[Cell]:
        """Return a VM's days, oldest first; one without a key is known by its id alone."""
        names = [name for name in (vm_key, vm_id.lower()) if name]
        return [self._cell(names, number) for number in range(len(self.dates))]

    def _cell(self, names: Sequence[str], number: int) -> Cell:
        marks = 0
        for name in names:
            marks |= self._marks[name][number] if name in self._marks else 0
        state, said = next((state, said) for bit, state, said in _STATES if marks & bit or not bit)
        reasons = (self._reasons.get((name, number)) for name in names)
        reason = next(filter(None, reasons), "")
        if marks & _FAILED and state != "failed":
            said += ", and a job failed"
        return Cell(state, f"{said}: {reason}" if reason else said)

    def _take_point(self, point: RestorePoint) -> None:
        who = (point.vm.key, point.id)
        bits = _POINT | _VERIFIED * (who in self._verified) | _FLAGGED * (who in self._flagged)
        self._mark(point.vm.key, point.taken_at, bits)

    def _take_job(self, record: JobRecord) -> None:
        for vm in record.vms:
            bits = {"done": _MADE, "skipped": _SKIPPED, "failed": _FAILED}[vm.status]
            self._mark(vm.key, record.started_at, bits, vm.reason if bits == _FAILED else "")
        for one in record.unprotected:
            self._mark(one.id.lower(), record.started_at, _FAILED, one.reason)

    def _mark(self, name: str, moment: datetime, bits: int, reason: str = "") -> None:
        number = (_day(moment, self._zone) - self.dates[0]).days
        if 0 <= number < len(self.dates):
            self._marks.setdefault(name, bytearray(len(self.dates)))[number] |= bits
            if reason:
                self._reasons[name, number] = clean(reason)


def good_points(ended: Sequence[Verified]) -> set[tuple[str, str]]:
    """
    Return VM key and id of every point that is known to be good.

    A verification names the newest good point of each VM. What earlier ones named counts as long as
    none since then found any point damaged.

    :param ended: verifications, oldest first.
    """
    good = set[tuple[str, str]]()
    for record in reversed(ended):
        if record.outcome is not None:
            good |= {(point.vm_key, point.point) for point in record.outcome.verified}
            if record.outcome.damaged_points:
                break
    return good


def _day(moment: datetime, zone: tzinfo | None) -> date:
    return moment.astimezone(zone).date()
