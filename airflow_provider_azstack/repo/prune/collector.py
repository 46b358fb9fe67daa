"""
The collector: deletes what no restore point and no living run needs.

Owns the order C1 to C7; marking, choosing copies, condemned records, copying and deleting are
beside it.
Invariants: nothing is deleted that was not published as condemned, with the sessions that lived
after that all gone, and marked once more since. Whatever cannot be read or is not as expected stops
it before the first deletion. It can die anywhere: the next one goes on from what the records say.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import IntegrityError, Refused, StoreFull
from airflow_provider_azstack.repo import room
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import OWNER_BYTES, owner_of, pack_id
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.parallel import at_once
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.prune import compaction, condemned, litter
from airflow_provider_azstack.repo.prune.condemned import Condemned
from airflow_provider_azstack.repo.prune.deleting import Deleter
from airflow_provider_azstack.repo.prune.liveness import Liveness, Usage
from airflow_provider_azstack.repo.prune.marking import Marker
from airflow_provider_azstack.repo.prune.repack import copy_blocks
from airflow_provider_azstack.repo.prune.report import Action, Report, Row
from airflow_provider_azstack.repo.sessions import CLAIMS, CONDEMNED, SessionInfo, bad_blocks
from airflow_provider_azstack.store.base import ObjectInfo, is_valid_name

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

THREADS = 8
# Less of a pack than this is needed: its blocks are copied and the pack goes. At a half, room that
# is wasted is at most as much as what is needed, and each byte copied frees at least another.
REPACK_BELOW = 0.5
PURPOSE = "prune"
LOOKS = 3


class _View(NamedTuple):
    """What is there, read in the order that the proof needs."""

    found: condemned.Found
    packs: dict[str, int]  # object name -> size
    living: dict[str, SessionInfo | None]  # other sessions than ours
    owners: frozenset[bytes]  # how the ids of their packs end

    @property
    def runs(self) -> set[str] | None:
        """The runs that are not over, or None when a session does not say which it is."""
        runs = {info.run if info else "?" for info in self.living.values()} - {""}
        return runs if all(map(is_valid_name, runs)) else None


def prune(
    repository: "Repository",
    *,
    dry_run: bool = False,
    dead_sessions: Collection[str] = (),
    confirm: str = "",
    purpose: str = PURPOSE,
    run: str = "",
    threads: int = THREADS,
    tell: Callable[[str], None] = log.info,
) -> Report:
    """
    Delete what nothing needs, as far as no living session may still count on it.

    :param dead_sessions: sessions that are believed dead, and fenced. If one lives after all, its
        run fails; nothing is lost.
    :param confirm: the repository's id, when it has no restore point and shall be emptied.
    :param purpose: and ``run``: what our session says of itself.
    :param tell: told a line for each thing that was, or would be, done.
    :raises Refused: something is missing, unreadable or not as expected; nothing was deleted.
    """
    session = None
    if not dry_run:
        for dead in sorted(dead_sessions):
            repository.fence(dead)  # C1
        session = room.with_room(repository, lambda: repository.open_session(purpose, run=run))
    # Without the cache: no bit that flipped on this host may say what can be deleted.
    index = Index(repository.records)
    try:
        collector = _Collector(repository, session, index, threads, tell)
        return collector.run(frozenset(dead_sessions), confirm)
    finally:
        index.close()
        if session is not None:
            session.close()


class _Collector:
    """One collection. Without a session it only looks."""

    def __init__(
        self,
        repository: "Repository",
        session: "Session | None",
        index: Index,
        threads: int,
        tell: Callable[[str], None],
    ) -> None:
        self._repository = repository
        self._session = session
        self._index = index
        self._threads = threads
        self._tell = tell
        self._small = at_once(repository.store, threads)  # threads for requests without blocks
        self._liveness = Liveness(index)
        reader = BlockReader(repository.records, index)
        self._marker = Marker(repository, reader, self._liveness, self._small)
        self._deleter = Deleter(repository.store, self._small, self._say)
        self._rows: list[Row] = []

    def run(self, dead_sessions: frozenset[str], confirm: str) -> Report:
        """Do C2 to C7, or say what they would do."""
        self._require_prompt_listing()
        for dead in sorted(dead_sessions):
            self._say("fence", f"sessions/{dead}", 0, "said to be dead")
        view = self._survey(dead_sessions)  # C2
        for name, why in view.found.ignored.items():
            self._say("ignore", name, 0, f"{why}; if no prune is running, delete it by hand")
        new = self._condemn(view, confirm)  # C3
        if self._session is None:
            self._foresee(view)
        else:
            self._delete(new)
            self._tidy()
        size = sum(view.packs.values())
        return Report(
            self._session is None,
            len(self._marker.points),
            len(view.packs),
            size,
            tuple(self._rows),
        )

    def _survey(self, dead_sessions: Collection[str] = ()) -> _View:
        """
        C2, and C5: look what is there, then mark what is needed.

        A point that was published in between may need what is not in our lists yet: then look
        again. What was marked stays marked.
        """
        for left in range(LOOKS, 0, -1):
            view = self._look(dead_sessions)
            try:
                self._mark(view)
            except Refused:
                if left == 1:
                    raise
            else:
                break
        return view

    def _look(self, dead_sessions: Collection[str] = ()) -> _View:
        """
        Read condemned lists, then packs, then sessions, then the index.

        A pack of a session that is gone when sessions are listed was followed by its segment, if
        its writer was told that it may count on it; so whoever does not see the session sees the
        segment.
        """
        repository = self._repository
        found = condemned.read(repository)
        packs = {
            info.name: info.size_bytes
            for info in self._index.listed_packs()
            if pack_id(info.name) is not None
        }
        own = self._session.id if self._session else ""
        sessions = repository.sessions()
        living = {s: i for s, i in sessions.items() if s != own and s not in dead_sessions}
        self._index.refresh()
        if self._index.damaged:
            raise Refused(
                f"{self._index.damaged[0]} is damaged, so blocks of living packs may be unknown: "
                "'azstack rebuild-index' first"
            )
        owners = frozenset(owner_of(session) for session in living)
        return _View(found, packs, living, owners)

    def _mark(self, view: _View) -> None:
        """Mark, and choose the copy of every block that is needed."""
        self._marker.mark(view.runs)
        self._liveness.settle(
            (ObjectInfo(name, size) for name, size in view.packs.items()),
            view.found.packs,
            bad_blocks(self._repository.records),
        )
        lost = self._liveness.lost()
        if lost is not None:
            raise Refused(
                f"block {lost.hex()}, which a restore point needs, is in no pack that is there: "
                "verify, and repair or forget the point; nothing was deleted"
            )
        if self._session is not None:
            with contextlib.suppress(StoreFull):  # the next one will record it
                census.put_census(self._repository, self._marker.points)

    def _condemn(self, view: _View, confirm: str) -> list[Condemned]:
        """C3: publish what may go; return all records, stamped."""
        usage = self._liveness.usage()
        dead = self._dead(view, usage)
        if dead and not self._marker.points and confirm != self._repository.id:
            raise Refused(
                f"{self._repository.store.url} has packs and no restore point: all would go; "
                f"confirm that with the repository's id, {self._repository.id}"
            )
        stale = self._repack(view, usage)
        old = litter.find(self._repository, self._marker, view.runs)
        objects = [thing for thing in old if thing.info.name not in view.found.objects]
        for name in dead:
            self._say("condemn", name, view.packs[name], "no restore point needs it")
        for thing in objects:
            self._say("condemn", thing.info.name, thing.info.size_bytes, thing.because)
        if self._session is None:
            return []
        records = [
            record if record.alive is not None else condemned.stamp(self._repository, record)
            for record in view.found.records
        ]
        if dead or stale or objects:
            names = [thing.info.name for thing in objects]
            records.append(condemned.publish(self._session, [*dead, *stale], names))
        return records

    def _dead(self, view: _View, usage: Mapping[str, Usage]) -> list[str]:
        return sorted(
            name
            for name in view.packs
            if name not in usage and name not in view.found.packs and not self._is_owned(view, name)
        )

    def _is_owned(self, view: _View, name: str) -> bool:
        """Tell whether a session that is not over wrote a pack: it may not be indexed yet."""
        pack = pack_id(name)
        return pack is not None and pack[-OWNER_BYTES:] in view.owners

    def _repack(self, view: _View, usage: Mapping[str, Usage]) -> list[str]:
        """Copy what is needed out of packs that are mostly dead; return these."""
        stale = sorted(
            name
            for name, used in usage.items()
            if used.live_bytes < REPACK_BELOW * view.packs[name]
            and name not in view.found.packs
            and not self._is_owned(view, name)
        )
        if self._session is not None and stale:
            going = {*view.found.packs, *stale}
            try:
                self._copy(stale, going)
            except (StoreFull, IntegrityError) as error:
                for name in stale:
                    self._say("keep", name, view.packs[name], f"cannot be repacked: {error}")
                return []
        for name in stale:
            percent = 100 * usage[name].live_bytes // view.packs[name]
            self._say("repack", name, view.packs[name], f"{percent}% of it is needed")
        return stale

    def _copy(self, packs: Collection[str], going: Collection[str]) -> None:
        if self._session is None:
            raise AssertionError("a dry run copies nothing")
        copy_blocks(
            self._repository,
            self._session,
            self._index,
            self._liveness.blocks_of(packs),
            going=going,
            threads=self._threads,
        )

    def _gate(self, records: Iterable[Condemned], living: Mapping[str, object]) -> list[Condemned]:
        """C4: return the records whose sessions are all over; the others wait."""
        ripe = []
        for record in records:
            waits_for = sorted((record.alive or frozenset()) & living.keys())
            if waits_for:
                count = len(record.packs) + len(record.objects)
                why = f"{count} objects wait for the end of {', '.join(waits_for)}"
                self._say("wait", f"{CONDEMNED}{record.id}", 0, why)
            else:
                ripe.append(record)
        return ripe

    def _delete(self, records: list[Condemned]) -> None:
        """C4 to C7."""
        if not records or self._session is None:
            return
        ripe = self._gate(records, self._others())  # C4
        if not ripe:
            return
        view = self._survey()  # C5: mark once more, for what was published since
        going = {name for record in ripe for name in record.packs}
        left = self._rescue(view, going)
        if self._needed(going - left):  # was copied: a store may have lost what it acknowledged
            view = self._survey()
            left |= self._spare(view, going - left)
        self._session.check()
        left |= self._deleter.packs(going - left, view.packs)
        names = {name for record in ripe for name in record.objects}
        objects = litter.unneeded(self._repository, names, self._marker, view.runs)
        left |= self._deleter.objects(objects)
        with contextlib.suppress(StoreFull):  # harmless: what is said of packs that are gone
            compaction.compact(self._repository, self._index, going - left, view.packs)  # C6
        finished = [r for r in ripe if not left & {*r.packs, *r.objects}]
        condemned.finish(self._repository, finished)  # C7

    def _rescue(self, view: _View, going: Collection[str]) -> set[str]:
        """C5: copy what is needed after all out of condemned packs; return packs that must wait."""
        waiting: set[str] = set()
        for name in self._needed(going):
            try:
                self._copy([name], view.found.packs)
            except (StoreFull, IntegrityError) as error:
                waiting.add(name)
                why = f"it is needed after all, and cannot be copied: {error}"
                self._say("keep", name, view.packs[name], why)
        return waiting

    def _spare(self, view: _View, going: Collection[str]) -> set[str]:
        """C5: return packs whose copies are not there; they must wait."""
        waiting = self._needed(going)
        for name in waiting:
            why = "it is needed after all, and what was copied out of it is not there"
            self._say("keep", name, view.packs[name], why)
        return set(waiting)

    def _needed(self, packs: Collection[str]) -> list[str]:
        """Return those of some packs that hold what is needed and is nowhere else."""
        return sorted(self._liveness.usage().keys() & set(packs))

    def _tidy(self) -> None:
        """Remove what ended sessions and earlier collectors left, and keep a reserve."""
        store = self._repository.store
        condemned.remove_ends(self._repository)
        claims = [info.name for info in store.list(CLAIMS)]
        living = self._repository.sessions().keys()
        for name in claims:
            if name.rpartition("/")[2] not in living:
                self._deleter.one(name)  # void: its session is gone
        census.gather_forgotten(self._repository)
        room.keep_reserve(self._repository)

    def _foresee(self, view: _View) -> None:
        """In a dry run: what of the records that are there would be deleted now."""
        for record in self._gate(view.found.records, view.living):
            for name in sorted(record.packs & view.packs.keys()):
                self._say("delete", name, view.packs[name], "nothing needs it")
            for name in record.objects:
                self._say("delete", name, 0, "nothing refers to it")

    def _others(self) -> dict[str, SessionInfo | None]:
        own = self._session.id if self._session else ""
        return {s: info for s, info in self._repository.sessions().items() if s != own}

    def _require_prompt_listing(self) -> None:
        """Refuse a store whose listings are behind: all of this rests on seeing what is there."""
        if self._session and self._session.id not in self._repository.sessions():
            self._session.check()
            raise Refused(
                f"{self._repository.store.url} does not list the session that was just created: "
                "nothing can be deleted safely here; 'azstack probe' tells more"
            )

    def _say(self, action: Action, name: str, size_bytes: int, because: str) -> None:
        self._rows.append(Row(action, name, size_bytes, because))
        self._tell(f"{action} {name}: {because}")
