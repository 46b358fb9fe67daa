"""
Random clients of one repository and of its copy, against an independent model of what must restore.

Each client is a generator that does its work in small steps; a seeded choice decides whose turn it
is, so backups, restores, syncs, verifications and collections run into each other at every place
where they can meet. Clients die between two steps or inside a store call, sessions of living ones
are fenced, the clock jumps. Backups know what changed, or find it by content; build on the image
before, on a sibling's, or on none; take a disk in parts; are lied to; are done again by another
process, also while the first one lives. The model knows nothing of the package: it keeps the bytes
of each disk at each backup and the words that clients were given.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Literal

from oracle import assert_nothing_is_missing
from support import points
from support.random_disks import (
    PAGE,
    REGION,
    SIZES,
    TINY,
    WINDOW,
    Disk,
    State,
    assert_is,
    changed_pages,
    places,
    written,
)
from support.repositories import CHEAP, small_packs
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.engine.backup.disk import back_up_disk
from airflow_provider_azstack.engine.backup.join import joined
from airflow_provider_azstack.engine.backup.parts import stretches
from airflow_provider_azstack.engine.restore.difference import differing
from airflow_provider_azstack.errors import (
    AzStackError,
    ChangesLied,
    ObjectExists,
    PointForgotten,
    Refused,
    SessionLost,
    SourceBusy,
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
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import StoreWrapper

VMS = 4
MEDDLING = 0.05  # how often somebody comes in between two store calls
DEPTH = 4  # and between those of that one, and so on
PASSPHRASE = Secret("of the random clients")
Key = tuple[str, str]  # VM key, point id
Client = Generator[str, None, None]

# What may be thrown at a client whose session was fenced, or whose point was forgotten meanwhile.
EXCUSED = (SessionLost, SourceBusy, Refused)


@dataclass
class Model:
    """What one repository must hold, and what it must not: the words that clients were given."""

    must: set[Key] = field(default_factory=set)  # reported as done
    gone: set[Key] = field(default_factory=set)  # reported as forgotten


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


@dataclass
class Running:
    """A client that is at work, until it has died."""

    name: str
    client: Client
    is_dead: bool = False


class Meddled(StoreWrapper):
    """A store at whose calls others may come in between."""

    def __init__(self, inner: Store, world: "World") -> None:
        super().__init__(inner)
        self._meddle = world.meddle
        self._world = world

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._meddle()
        if name.startswith("sessions/") and self._world.executing:
            self._world.owners[name.removeprefix("sessions/")] = self._world.executing[-1]
        self.inner.put(name, data)

    def delete(self, name: str) -> None:
        self._meddle()
        self.inner.delete(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._meddle()
        return self.inner.list(prefix)


class World:
    """A repository, its copy, VMs that change, and clients."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.entropy = Random(seed + 1)  # threads draw from it: it must not decide whose turn it is
        self.now = points.DAY_ONE
        self.store, self.copy_store = MemoryStore(), MemoryStore()
        for store in (self.store, self.copy_store):
            Repository.create(store, PASSPHRASE, kdf=CHEAP, random=self.entropy.randbytes)
        self.here, self.there = Model(), Model()
        self.ever: dict[Key, State] = {}  # what was backed up, whether that was published or not
        self.disks = [State(SIZES[min(number, len(SIZES) - 1)], {}) for number in range(VMS)]
        self.images: dict[str, State] = {}  # image name -> what it was made of
        self.tasks: list[Task] = []  # that nobody has ended
        self.torn: set[Key] = set()  # whoever published them died in the middle of that
        self.running: list[Running] = []
        self.executing: list[Running] = []  # the one whose turn it is, and whom it came in between
        self.owners: dict[str, Running] = {}  # of sessions
        self.dead: list[Client] = []  # kept: a generator that is dropped runs its clean-up
        self.runs = self.streams = self.fences = self.depth = 0
        self.quiet = False
        self.thread = threading.get_ident()
        self.done: Counter[str] = Counter()

    def clock(self) -> datetime:
        return self.now

    def open(self, store: MemoryStore, crash: float = 0.0) -> Repository:
        """Open as another process would; it may die at one of its mutating store calls."""
        at = self.rng.randrange(30) if self.rng.random() < crash else None
        mode: Literal["before", "after"] = "after" if self.rng.random() < 0.5 else "before"
        crashing = CrashingStore(Meddled(store, self), at, mode)
        random = self.entropy.randbytes
        return Repository.open(crashing, PASSPHRASE, clock=self.clock, random=random)

    def meddle(self) -> None:
        """Let somebody else come in between two store calls; never from another thread."""
        if self.quiet or self.depth >= DEPTH or threading.get_ident() != self.thread:
            return
        if self.rng.random() < MEDDLING:
            self.depth += 1
            try:
                self.step()
            finally:
                self.depth -= 1

    # -- steps of the scheduler

    def step(self) -> None:
        """Let one thing happen."""
        self.now += timedelta(minutes=self.rng.randrange(1, 90))
        chance = self.rng.random()
        if chance < 0.02:
            self.now += timedelta(hours=self.rng.choice([-2, -1, 24, 72]))
            self.done["clock jumps"] += 1
        elif chance < 0.04 and self.running:
            self._kill()
        elif chance < 0.05:
            self._fence()
        elif chance < 0.30 or not self.running:
            self._start()
        else:
            self._advance(self.rng.choice(self.running))

    def finish(self) -> None:
        """Let everybody end, collect twice; R1, R2, and R3: an ordinary run succeeds."""
        while self.running:
            self._advance(self.running[0])
        self.quiet = True
        for store in (self.store, self.copy_store):
            repository = self.open(store)
            prune(repository, dead_sessions=sorted(repository.sessions()))
            prune(repository)
        self.check()
        for number in range(VMS):
            published = len(self.here.must)
            list(self._backup(self.open(self.store), number))
            assert len(self.here.must) == published + 1
        list(self._sync(self.open(self.store), crash=0.0))
        self.check()

    def check(self) -> None:
        """R1 and R2, of the repository and of its copy."""
        was_quiet, self.quiet = self.quiet, True
        for store, model in ((self.store, self.here), (self.copy_store, self.there)):
            repository = self.open(store)
            visible = {(point.vm.key, point.id) for point in repository.points()}
            assert not visible & model.gone - self.torn, "a forgotten point is back"
            lost = model.must - visible
            assert not lost, f"restore points were lost: {lost}"
            for point in repository.points():
                for image in point.images:
                    reader = ImageReader(repository.image(image.image), repository.reader())
                    assert_is(reader, self.ever[point.vm.key, point.id])
            assert_nothing_is_missing(repository)
        self.quiet = was_quiet

    def _start(self) -> None:
        kinds: dict[str, tuple[int, Callable[[Repository], Client]]] = {
            "backup": (8, lambda r: self._backup(r, self.rng.randrange(VMS))),
            "backup by another process": (3, self._resume),
            "restore": (3, self._restore),
            "forget": (3, lambda r: self._forget(r, self.here)),
            "prune": (4, self._prune),
            "verify": (1, self._verify),
            "sync": (3, self._sync),
            "forget in the copy": (1, lambda r: self._forget(r, self.there)),
            "prune of the copy": (2, self._prune),
            "verify of the copy": (1, self._verify),
        }
        names = list(kinds)
        (name,) = self.rng.choices(names, [kinds[name][0] for name in names])
        store = self.copy_store if "copy" in name else self.store
        repository = self.open(store, crash=0.15)
        self.running.append(Running(name, kinds[name][1](repository)))

    def _advance(self, running: Running) -> None:
        self.running.remove(running)  # whoever meddles cannot advance it as well
        self.executing.append(running)
        try:
            next(running.client)
        except StopIteration:
            self.done[running.name] += 1
        except Crash:
            self._bury(running)
            self.done["crashes"] += 1
        except EXCUSED as error:
            self.done[f"{running.name}: {type(error).__name__}"] += 1
        else:
            self.running.append(running)
        finally:
            self.executing.remove(running)

    def _bury(self, running: Running) -> None:
        running.is_dead = True
        self.dead.append(running.client)

    def _kill(self) -> None:
        """Between two store calls; nothing of the client runs any more."""
        self._bury(self.running.pop(self.rng.randrange(len(self.running))))
        self.done["kills"] += 1

    def _fence(self) -> None:
        """End a session that is believed dead; it may well live."""
        store = self.rng.choice([self.store, self.copy_store])
        sessions = sorted(store.list("sessions/"))
        if sessions:
            store.delete(self.rng.choice(sessions).name)
            self.fences += 1

    def bury(self) -> None:
        """Let go of all clients; what their clean-up does matters no more."""
        for client in [*self.dead, *(running.client for running in self.running)]:
            with contextlib.suppress(AzStackError, Crash, ValueError):  # one may be executing
                client.close()

    # -- clients

    def _backup(self, repository: Repository, number: int) -> Client:
        """One run over one VM: W1 to W7, with a pause between any two of them."""
        self.disks[number] = written(self.disks[number], self.disks, self.rng)
        self.runs += 1
        run, state = f"run-{self.runs}", self.disks[number]
        session = small_packs(repository.open_session("backup", run=run))
        yield "opened"
        with contextlib.closing(session), only_the_fenced_may_fail(session):
            session.claim(points.vm_key(number))
            yield "claimed"
            day = (self.now - points.DAY_ONE) / timedelta(days=1)
            before, sibling = self._references(repository, number)
            count = self.rng.choice([1, 1, 2, 3])
            parts = stretches(state.size_bytes, count) if state.size_bytes > REGION else ()
            task = Task(run, session.id, number, state, day, before, sibling, parts or (None,))
            self.tasks.append(task)
            yield "looked back"
            yield from self._work(repository, session, task)

    def _resume(self, repository: Repository) -> Client:
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
        self.ever[task.key, point.id] = task.state
        try:
            session.publish(point)
        except ObjectExists:  # the other copy of the task was first, with images of its own
            self.done["two copies of a task"] += 1
            return
        except PointForgotten:  # and what it published was forgotten since
            assert (task.key, point.id) not in self.here.must
            self.done["forgotten meanwhile"] += 1
            return
        except Crash:
            self.torn.add((task.key, point.id))
            raise
        if task in self.tasks:
            self.tasks.remove(task)
            self.here.must.add((task.key, point.id))
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

    def _restore(self, repository: Repository) -> Client:
        """Read a point slowly; while the session lives, nobody pulls packs from under it."""
        if not self.here.must:
            return
        session = repository.open_session("restore")
        try:
            key = self.rng.choice(sorted(self.here.must))
            yield "chosen"
            if key not in self.here.must:
                return  # forgotten meanwhile
            state = self.ever[key]
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
        fresh = Repository(self.store, repository.keys)  # whose index is no older than the point
        told = list(differing(fresh, image, other))
        fresh.close()
        for page in changed_pages(self.images[image.name], self.images[other.name]):
            end = page + PAGE
            is_told = any(one.offset < end and page < one.offset + one.length for one in told)
            assert is_told, f"{image.name} and {other.name} differ at {page}"

    def _forget(self, repository: Repository, model: Model) -> Client:
        """Forget a point, but leave each VM some."""
        yield "started"
        counts = Counter(vm for vm, _ in model.must)
        spare = sorted(key for key in model.must if counts[key[0]] > 2)
        if spare:
            key = self.rng.choice(spare)
            model.must.remove(key)  # from here on nobody was promised anything about it
            forget(repository, [key])
            model.gone.add(key)

    def _prune(self, repository: Repository) -> Client:
        yield "started"
        dead = [s for s in sorted(repository.sessions()) if self.rng.random() < self._belief(s)]
        self.fences += len(dead)
        prune(repository, dead_sessions=dead, threads=1)

    def _belief(self, session: str) -> float:
        """How likely a collector takes a session for dead: mostly when it is, but not only."""
        owner = self.owners.get(session)
        return 0.7 if owner is not None and owner.is_dead else 0.03

    def _verify(self, repository: Repository) -> Client:
        yield "started"
        report = verify(repository, "full", threads=1, progress=lambda _: None)
        assert not report.affected, report

    def _sync(self, repository: Repository, crash: float = 0.15) -> Client:
        """
        Copy what the copy lacks; what is reported as copied must restore there.

        Sometimes what was forgotten there is asked for, and comes back.
        """
        yield "started"
        newest, fences = self.rng.choice([0, 0, 1]), self.fences
        wanted = Selection(newest=newest)
        if self.there.gone and self.rng.random() < 0.1:
            back = self.rng.choice(sorted(self.there.gone))
            self.there.gone.remove(back)  # it may be back from here on, also if we die
            wanted = Selection(points=[back[1]])
        copy = self.open(self.copy_store, crash)
        for outcome in sync(repository, copy, wanted, threads=1):
            key = (outcome.vm_key, outcome.point)
            if outcome.status == "copied":
                self.there.must.add(key)
                self.done["came back"] += bool(wanted.points)
            elif outcome.status == "failed":
                assert fences < self.fences or "condemned" in outcome.reason, outcome
                self.done["failed copies"] += 1


@contextlib.contextmanager
def only_the_fenced_may_fail(session: Session) -> Iterator[None]:
    """Excuse an error of ours where the session was lost: all others fail the test."""
    try:
        yield
    except AzStackError:
        session.check()
        raise


def run(seed: int, steps: int, *, check_every: int = 100) -> World:
    """
    Run a world; whatever goes wrong names the seed.

    :returns: the world at its end, for the numbers.
    """
    world = World(seed)
    try:
        for number in range(1, steps + 1):
            world.step()
            if number % check_every == 0:
                world.check()
        world.finish()
    except BaseException as error:
        error.add_note(f"random clients: seed {seed}, {steps} steps; after {dict(world.done)}")
        raise
    finally:
        world.bury()
    return world
