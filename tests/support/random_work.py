"""
What random clients do: each a generator that pauses between any two steps of its work.

Backups know what changed, or find it by content; build on the image before, on a sibling's, or on
none; take a disk in parts; are lied to; are done again by another process, also while the first one
lives. Whose turn it is, who dies and who comes in between is the world's business: each gets a
repository as its own process would have opened it, and notes in the world's model what it was told.
"""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from support import points
from support.random_disks import (
    PAGE,
    REGION,
    SIZES,
    TINY,
    WINDOW,
    Disk,
    State,
    changed_pages,
    places,
    written,
)
from support.repositories import small_packs
from support.stores import Crash

from airflow_provider_azstack.engine.backup.disk import back_up_disk
from airflow_provider_azstack.engine.backup.join import joined
from airflow_provider_azstack.engine.backup.parts import stretches
from airflow_provider_azstack.engine.restore.difference import differing
from airflow_provider_azstack.errors import (
    AzStackError,
    ChangesLied,
    ObjectExists,
    PointForgotten,
)
from airflow_provider_azstack.model import Compression, DiskPart, DiskSnapshot, Image
from airflow_provider_azstack.repo.copies.image import image_blocks
from airflow_provider_azstack.repo.copies.sync import Selection, sync
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.repo.verify.verification import verify

if TYPE_CHECKING:
    from support.random_clients import Model, World

VMS = 4
Client = Generator[str, None, None]


@dataclass
class Task:
    """One run over one VM, whichever process works on it."""

    run: str
    session: str
    number: int
    state: State
    day: float
    before: str  # image
    sibling: str  # image
    parts: tuple[DiskPart | None, ...]
    is_spoiled: bool = False  # a lie was believed

    @property
    def key(self) -> str:
        return points.vm_key(self.number)

    @property
    def folder(self) -> str:
        return f"images/{self.run}/{self.key}.os/"


class Clients:
    """What clients do, and what they know of each other's work."""

    def __init__(self, world: "World") -> None:
        self.world, self.rng, self.done = world, world.rng, world.done
        self.disks = [State(SIZES[min(number, len(SIZES) - 1)], {}) for number in range(VMS)]
        self.images: dict[str, State] = {}  # image name -> what it was made of
        self.tasks: list[Task] = []  # that nobody has ended
        self.runs = self.streams = 0

    def backs_up(self, repository: Repository, number: int) -> Client:
        """One run over one VM: W1 to W7, with a pause between any two of them."""
        self.disks[number] = written(self.disks[number], self.disks, self.rng)
        self.runs += 1
        run, state = f"run-{self.runs}", self.disks[number]
        session = small_packs(repository.open_session("backup", run=run))
        yield "opened"
        with contextlib.closing(session), only_the_fenced_may_fail(session):
            session.claim(points.vm_key(number))
            yield "claimed"
            day = (self.world.now - points.DAY_ONE) / timedelta(days=1)
            before, sibling = self._references(repository, number)
            count = self.rng.choice([1, 1, 2, 3])
            parts = stretches(state.size_bytes, count) if state.size_bytes > REGION else ()
            task = Task(run, session.id, number, state, day, before, sibling, parts or (None,))
            self.tasks.append(task)
            yield "looked back"
            yield from self._work(repository, session, task)

    def resumes(self, repository: Repository) -> Client:
        """Do again what somebody else left, or is still working on, under the same session."""
        yield "started"
        if not self.tasks:
            return
        task = self.rng.choice(self.tasks)
        session = small_packs(repository.join_session(task.session))
        with contextlib.closing(session), only_the_fenced_may_fail(session):
            yield from self._work(repository, session, task)

    def _references(self, repository: Repository, number: int) -> tuple[str, str]:
        """Return the image before, or a sibling's, or none."""
        if self.rng.random() < 0.8 and (latest := repository.latest_point(points.vm_key(number))):
            return latest.images[0].image, ""
        other = repository.latest_point(points.vm_key(self.rng.randrange(VMS)))
        return "", other.images[0].image if other and self.rng.random() < 0.7 else ""

    def _work(self, repository: Repository, session: Session, task: Task) -> Client:
        made: list[Image] = []
        for part in task.parts:
            there = sorted(repository.images(task.run, task.key, "os"), key=lambda one: one.name)
            of_part = [image for image in there if image.part == part]
            self.done["images used again"] += bool(of_part)
            made.append(of_part[0] if of_part else self._streamed(repository, session, task, part))
            yield "streamed"
        if task.is_spoiled:
            return
        image = made[0]
        if image.part is not None:
            image = joined(made)
            session.put_image(image)
            self.done["joined"] += 1
        self.images[image.name] = task.state
        session.verify_present(image_blocks(session.reader(), image))
        yield "verified"
        if task.is_spoiled:
            return
        how = {"run": task.run, "policy": "p", "number": task.number, "day": task.day}
        point = points._point(session, [image], **how, previous="")  # type: ignore[arg-type]
        self.world.ever[task.key, point.id] = task.state
        try:
            session.publish(point)
        except ObjectExists:  # the other copy of the task was first, with images of its own
            self.done["two copies of a task"] += 1
            return
        except PointForgotten:  # and what it published was forgotten since
            assert (task.key, point.id) not in self.world.here.must
            self.done["forgotten meanwhile"] += 1
            return
        except Crash:
            self.world.torn.add((task.key, point.id))
            raise
        if task in self.tasks:
            self.tasks.remove(task)
            self.world.here.must.add((task.key, point.id))
        yield "published"

    def _streamed(
        self, repository: Repository, session: Session, task: Task, part: DiskPart | None
    ) -> Image:
        """Return an image of the disk, or of a part of it; after a lie everything is read."""
        source = self._source(task)
        try:
            image = self._image(repository, session, task, part, source)
        except ChangesLied:
            assert source.hidden is not None
            self.done["lies found out"] += 1
            return self._image(repository, session, task, part, Disk(task.state, None), again=True)
        if source.hidden is not None and image.changes_known != "everything":
            self.done["lies believed"] += 1
            task.is_spoiled = True
        return image

    def _source(self, task: Task) -> Disk:
        """Return the disk as its stack tells of it, which may know all, some or nothing."""
        before = self.images[task.before] if task.before else None
        told_until, has_page_list = self.rng.choices(
            [(2 * WINDOW, True), (WINDOW, True), (0, True), (0, False)], [5, 2, 4, 0.2]
        )[0]
        hidden = None
        if before and task.state.size_bytes == before.size_bytes <= TINY:
            held = changed_pages(before, task.state) if told_until else task.state.pages
            hidden = self.rng.choice(sorted(held)) if held and self.rng.random() < 0.2 else None
        return Disk(
            task.state,
            before,
            told_until=told_until,
            has_page_list=has_page_list,
            hidden=hidden,
        )

    def _image(
        self,
        repository: Repository,
        session: Session,
        task: Task,
        part: DiskPart | None,
        source: Disk,
        *,
        again: bool = False,
    ) -> Image:
        self.streams += 1
        compressions: list[Compression] = ["fast", "standard", "small"]
        image = back_up_disk(
            source,
            session,
            name=f"{task.folder}{session.id}-{self.streams:06d}",
            run=task.run,
            vm_key=task.key,
            set_id=f"set-{task.run}",
            snapshot=DiskSnapshot(
                disk_key="os",
                kind="managed",
                id="/subscriptions/s/snapshot",
                size_bytes=source.size_bytes,
                unique_id=task.key,
                taken_at=points.DAY_ONE + timedelta(days=task.day),
            ),
            part=part,
            previous=repository.image(task.before) if task.before and not again else None,
            sibling=repository.image(task.sibling) if task.sibling and not again else None,
            trust="everything" if again else "difference",
            compression=self.rng.choice(compressions),
            readers=1,
            rng=lambda: Random(self.streams),
        )
        if image.part is None:
            self.images[image.name] = task.state
        kind = "sibling" if task.sibling else "before" if task.before else "nothing"
        self.done[f"{image.changes_known} from {kind}"] += 1
        return image

    def restores(self, repository: Repository) -> Client:
        """Read a point slowly; while the session lives, nobody pulls packs from under it."""
        if not self.world.here.must:
            return
        session = repository.open_session("restore")
        try:
            key = self.rng.choice(sorted(self.world.here.must))
            yield "chosen"
            if key not in self.world.here.must:
                return  # forgotten meanwhile
            state = self.world.ever[key]
            image = repository.image(repository.point(*key).images[0].image)
            reader = ImageReader(image, session.reader())
            for _ in range(4):
                yield "read"
                offset = self.rng.choice(places(state.size_bytes))
                length = min(self.rng.choice([PAGE, 40 * PAGE]), state.size_bytes - offset)
                with only_the_fenced_may_fail(session):
                    read = reader.read(offset, length)
                    self._compare(repository, image)
                assert read == state.read(offset, length)
        finally:
            session.close()

    def _compare(self, repository: Repository, image: Image) -> None:
        """Hold what two images are said to differ in against the disks: replacing rests on it."""
        latest = repository.latest_point(image.vm_key)
        if latest is None or latest.images[0].size_bytes != image.size_bytes:
            return
        other = repository.image(latest.images[0].image)
        # With an index that is no older than the point.
        fresh = Repository(self.world.store, repository.keys)
        told = list(differing(fresh, image, other))
        fresh.close()
        for page in changed_pages(self.images[image.name], self.images[other.name]):
            end = page + PAGE
            is_told = any(one.offset < end and page < one.offset + one.length for one in told)
            assert is_told, f"{image.name} and {other.name} differ at {page}"

    def forgets(self, repository: Repository, model: "Model") -> Client:
        """Forget a point, but leave each VM some."""
        yield "started"
        counts = Counter(vm for vm, _ in model.must)
        spare = sorted(key for key in model.must if counts[key[0]] > 2)
        if spare:
            key = self.rng.choice(spare)
            model.must.remove(key)  # from here on nobody was promised anything about it
            forget(repository, [key])
            model.gone.add(key)

    def prunes(self, repository: Repository) -> Client:
        yield "started"
        dead = [s for s in sorted(repository.sessions()) if self.rng.random() < self._belief(s)]
        self.world.fences += len(dead)
        prune(repository, dead_sessions=dead, threads=1)

    def _belief(self, session: str) -> float:
        """How likely a collector takes a session for dead: mostly when it is, but not only."""
        owner = self.world.owners.get(session)
        return 0.7 if owner is not None and owner.is_dead else 0.03

    def verifies(self, repository: Repository) -> Client:
        yield "started"
        report = verify(repository, "full", threads=1, progress=lambda _: None)
        assert not report.affected, report

    def syncs(self, repository: Repository, crash: float = 0.15) -> Client:
        """
        Copy what the copy lacks; what is reported as copied must restore there.

        Sometimes what was forgotten there is asked for, and comes back.
        """
        yield "started"
        newest, fences = self.rng.choice([0, 0, 1]), self.world.fences
        wanted = Selection(newest=newest)
        if self.world.there.gone and self.rng.random() < 0.1:
            back = self.rng.choice(sorted(self.world.there.gone))
            self.world.there.gone.remove(back)  # it may be back from here on, also if we die
            wanted = Selection(points=[back[1]])
        copy = self.world.open(self.world.copy_store, crash)
        for outcome in sync(repository, copy, wanted, threads=1):
            key = (outcome.vm_key, outcome.point)
            if outcome.status == "copied":
                self.world.there.must.add(key)
                self.done["came back"] += bool(wanted.points)
            elif outcome.status == "failed":
                assert fences < self.world.fences or "condemned" in outcome.reason, outcome
                self.done["failed copies"] += 1


@contextlib.contextmanager
def only_the_fenced_may_fail(session: Session) -> Iterator[None]:
    """Excuse an error of ours where the session was lost: all others fail the test."""
    try:
        yield
    except AzStackError:
        session.check()
        raise
