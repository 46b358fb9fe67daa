"""
Verification: is everything that restore points need there, whole and readable?

Owns what is checked in which mode and in what order; knows no stack and no console.
Invariants: a session is open meanwhile, so no collector takes a pack away that is being read. What
is found damaged is recorded at once, so the next backup stores it again even if we die. A pack is
called damaged only after it was read twice, a block is called lost only when no good copy of it is
left and the index was asked again.

*structure* reads every record and every group of runs, and looks every block up: in the index, in
a pack that is there. *cycle* reads some packs whole besides, those never read first, then those
read longest ago; *full* reads all of them.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import islice

from airflow_provider_azstack.errors import (
    Cancelled,
    ConfigurationError,
    DamageFound,
    IntegrityError,
    ObjectNotFound,
    StoreError,
)
from airflow_provider_azstack.repo import sessions
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import pack_id
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.parallel import at_once
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import BadBlock, BadBlocks
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.repo.verify import ledger
from airflow_provider_azstack.repo.verify.findings import Affected, Cycle, Finding, Report
from airflow_provider_azstack.repo.verify.ledger import Mode, Outcome, Verified
from airflow_provider_azstack.repo.verify.pack_check import Checked, PackChecker
from airflow_provider_azstack.repo.verify.point_check import PointCheck
from airflow_provider_azstack.repo.verify.record_check import check_others
from airflow_provider_azstack.repo.verify.survey import PackAge, Survey
from airflow_provider_azstack.speed import Course, counted

log = logging.getLogger(__name__)

DAYS = 30
# That read packs: each costs up to two packs of memory; more of them than cores hide a store's
# latency. Small things are read by more, where the store is far away.
THREADS = 4
# A verification that dies has to read again at most so many packs.
_PACKS_PER_RECORD = 64
_BAD_PER_RECORD = 10_000


def verify(
    repository: Repository,
    mode: Mode,
    *,
    budget_bytes: int | None = None,
    days: int = DAYS,
    resume: bool = False,
    purpose: str = "verify",
    threads: int = THREADS,
    progress: Callable[[str], None] = log.info,
    cancel: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """
    Check a repository and return what was found.

    :param budget_bytes: of a cycle: how much to read now; default: what a daily run has to read so
        that everything is read within ``days``.
    :param resume: of a full verification: go on with the last one if it did not come to its end.
    :param purpose: what our session says of itself, for people.
    :param progress: told a line every few gigabytes.
    :raises SessionLost: our session was fenced; what was found may be no damage but collection.
    """
    if days < 1 or (budget_bytes is not None and budget_bytes < 1):
        raise ConfigurationError("verification needs a budget and a number of days above 0")
    session = repository.open_session(purpose)
    # Without the cache: what is said here is about the store, not about this host.
    index = Index(repository.records)
    try:
        run = _Verification(
            repository, session, index, mode=mode, threads=threads, progress=progress, clock=clock
        )
        return run.run(budget_bytes, days, resume=resume, cancel=cancel)
    finally:
        index.close()
        session.close()


class _Verification:
    """One verification, step by step."""

    def __init__(
        self,
        repository: Repository,
        session: Session,
        index: Index,
        *,
        mode: Mode,
        threads: int,
        progress: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._repository = repository
        self._records = repository.records
        self._session = session
        self._index = index
        self._mode: Mode = mode
        self._threads = threads
        self._progress = progress
        self._clock = clock
        self._now = self._started_at = repository.now()
        self._id = repository.keys.random(ID_BYTES).hex()
        self._packs: dict[str, Finding] = {}
        self._read_packs = self._read_bytes = 0
        self._known_bad = set[BadBlock]()
        self._checker = PackChecker(repository.store, repository.keys)
        index.refresh()
        self._survey = Survey(index, self._new_reader())

    def run(
        self, budget: int | None, days: int, *, resume: bool, cancel: threading.Event | None
    ) -> Report:
        """Do it all, in order."""
        self._take_packs()
        for _, record in ledger.entries(self._records, self._now):
            self._survey.note_read(record.packs, record.at)
        cycle = None
        if self._mode == "full":
            self._read(self._all_packs(resume=resume), cancel)
        elif self._mode == "cycle":
            budget = budget or self._needed(days)
            self._read(self._within(budget), cancel)
            cycle = self._cycle(budget, days)
        small = at_once(self._repository.store, self._threads)
        points = PointCheck(self._repository, self._survey, self._new_reader(), small)
        points.take()
        others = check_others(self._records, small, points.image_names())
        findings = [*points.findings, *others]
        self._survey.look(small)
        if self._survey.has_losses():
            # A collector may have moved blocks into new packs since the index was loaded.
            self._index.refresh()
            self._take_packs()
            self._judge_losses()
            self._survey.look_again(self._new_reader(), small)
        findings += self._pack_findings()
        affected = points.affected()
        self._session.check()
        return self._report(points, findings, affected, cycle)

    def _new_reader(self) -> BlockReader:
        return BlockReader(self._records, self._index)

    def _take_packs(self) -> None:
        """Take up which packs there are, and look into those of a wrong size at once."""
        known = list(_readable_bad_blocks(self._repository))
        self._known_bad.update(known)
        self._index.admit(frozenset(), known)
        for age in self._survey.list_packs(self._index.listed_packs()):
            problem = f"has {age.info.size_bytes} bytes, and the index says otherwise"
            self._judge(Checked(age.info, problem=problem))

    def _all_packs(self, *, resume: bool) -> list[PackAge]:
        packs = list(self._survey.packs_by_age())
        begun = ledger.unfinished_full(self._records, self._now) if resume else None
        if begun is None:
            return packs
        self._id, self._started_at = begun.verification, begun.started_at
        self._progress(f"going on with the verification of {begun.started_at:%Y-%m-%d %H:%M}")
        return [age for age in packs if age.at < int(begun.started_at.timestamp())]

    def _within(self, budget: int) -> list[PackAge]:
        """Choose what most needs to be read; at least one pack, or a small budget reads nothing."""
        chosen, total = list[PackAge](), 0
        for age in self._survey.packs_by_age():
            total += age.info.size_bytes
            if chosen and total > budget:
                break
            chosen.append(age)
        return chosen

    def _needed(self, days: int) -> int:
        """Return the bytes that a daily run has to read; a pack more, since packs are not cut."""
        packs, size = self._survey.totals()
        return max(1, -(-size // days) + (size // packs if packs else 0))

    def _cycle(self, budget: int, days: int) -> Cycle:
        since = int((self._now - timedelta(days=days)).timestamp())
        needed = self._needed(days)
        return Cycle(
            budget_bytes=budget,
            days=days,
            needed_bytes=needed,
            overdue_packs=sum(1 for age in self._survey.packs_by_age() if age.at < since),
            is_enough=budget >= needed,
        )

    def _read(self, packs: Sequence[PackAge], cancel: threading.Event | None) -> None:
        """Read packs whole; record what is good and what is not as it goes."""
        checked = self._checker.check_all((age.info for age in packs), self._threads, cancel)
        course = Course(
            f"verifications/{self._id}",
            f"verify {self._mode}",
            sum(age.info.size_bytes for age in packs),
            verb="read",
            began=self._clock(),
        )
        passed = 0  # with those that are gone since they were listed
        while batch := list(islice(checked, _PACKS_PER_RECORD)):
            good = [one.info.name.rpartition("/")[2] for one in batch if self._judge(one)]
            size = sum(one.info.size_bytes for one in batch if not one.is_gone)
            self._read_packs += len(batch)
            self._read_bytes += size
            self._survey.note_read(good, self._now)
            self._record(good, size)
            passed += sum(one.info.size_bytes for one in batch)
            self._progress(course.at(self._clock(), passed, self._read_bytes))
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"verification stopped after {self._read_packs} packs")

    def _judge(self, checked: Checked) -> bool:
        """Tell whether a pack is good; find out which copies of blocks are not."""
        info = checked.info
        pack = pack_id(info.name)
        if pack is None or checked.is_gone:
            return False  # collected or lost: which of the two shows when its blocks are missed
        if not checked.problem:
            problem = self._survey.disagreement(pack, checked.entries)
            if problem:
                self._packs[info.name] = Finding(object=info.name, problem=problem)
            return not problem
        entries = self._survey.entries_of(pack)
        bad = [
            BadBlock(block_id=entry.block_id, pack=pack.hex())
            for entry in self._checker.unreadable(info.name, pack, entries)
        ]
        # Who asked for this gets a report of findings, and warns of them once, there.
        log.info("%s: %s; %s damaged", info.name, checked.problem, counted(len(bad), "block"))
        self._packs[info.name] = Finding(
            object=info.name, problem=checked.problem, bad_blocks=len(bad)
        )
        self._record_bad(bad)
        return False

    def _judge_losses(self) -> None:
        """Look into the packs in which something was missed, but for those that were judged."""
        for name, _ in list(self._survey.losses_by_pack()):
            if name and name not in self._packs:
                with contextlib.suppress(ObjectNotFound):
                    info = self._repository.store.info(name)
                    self._judge(Checked(info, problem="holds damaged blocks"))

    def _record_bad(self, bad: Sequence[BadBlock]) -> None:
        """Let the next backup store again what is damaged, also if we come no further."""
        new = iter([block for block in bad if block not in self._known_bad])
        while some := tuple(islice(new, _BAD_PER_RECORD)):
            name = f"{sessions.BAD}{self._repository.keys.random(ID_BYTES).hex()}"
            self._records.put(name, BadBlocks(blocks=some))
        self._known_bad.update(bad)
        self._survey.note_bad(bad)

    def _record(
        self, packs: Sequence[str] = (), size: int = 0, outcome: Outcome | None = None
    ) -> None:
        record = Verified(
            verification=self._id,
            mode=self._mode,
            started_at=self._started_at,
            at=self._now,
            packs=tuple(packs),
            bytes=size,
            outcome=outcome,
        )
        ledger.put(self._records, record)

    def _pack_findings(self) -> Iterator[Finding]:
        """Yield what is wrong with packs, and whether anything needed is lost with it."""
        lost = dict(self._survey.losses_by_pack())
        if count := lost.pop("", 0):
            yield Finding(
                object="index/",
                problem=f"no readable segment names {counted(count, 'block')}: "
                "run 'azstack rebuild-index'; where that does not help, a backup with mode 'full'",
                lost_blocks=count,
            )
        for name in lost:
            if name not in self._packs:
                self._packs[name] = Finding(object=name, problem="is gone")
        for name, finding in sorted(self._packs.items()):
            yield _with_losses(finding, lost.get(name, 0))

    def _report(
        self,
        points: PointCheck,
        findings: list[Finding],
        affected: list[Affected],
        cycle: Cycle | None,
    ) -> Report:
        packs, pack_bytes = self._survey.totals()
        unneeded, unneeded_bytes = self._survey.unneeded()
        report = Report(
            verification=self._id,
            repository=self._repository.id,
            mode=self._mode,
            started_at=self._started_at,
            ended_at=self._repository.now(),
            points=points.count,
            groups=self._survey.groups(),
            packs=packs,
            pack_bytes=pack_bytes,
            read_packs=self._read_packs,
            read_bytes=self._read_bytes,
            unneeded_packs=unneeded,
            unneeded_bytes=unneeded_bytes,
            findings=tuple(findings),
            affected=tuple(affected),
            verified=tuple(points.verified(self._now)),
            cycle=cycle,
        )
        outcome = Outcome(
            points=report.points,
            damaged_points=report.damaged_points,
            findings=len(findings),
            verified=report.verified,
        )
        self._record(outcome=outcome)
        ledger.forget_superseded(self._records, self._repository.now())
        return report


def require_sound(report: Report) -> None:
    """
    Check that a verification found nothing that anybody needs damaged.

    :raises DamageFound: it did; says what.
    """
    if not report.is_sound:
        raise DamageFound(
            f"{report.summary()}; the next backup stores again what guests still have"
        )


def _with_losses(finding: Finding, lost: int) -> Finding:
    return Finding(
        object=finding.object,
        problem=finding.problem,
        bad_blocks=finding.bad_blocks,
        lost_blocks=lost,
        is_harmless=not lost,
    )


def _readable_bad_blocks(repository: Repository) -> Iterator[BadBlock]:
    """Yield what is recorded as damaged; an unreadable record is found with the other objects."""
    for info in list(repository.store.list(sessions.BAD)):
        try:
            yield from repository.records.get(info.name, BadBlocks).blocks
        except (IntegrityError, StoreError):
            continue
