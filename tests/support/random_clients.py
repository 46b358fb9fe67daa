"""
Random clients of one repository and of its copy, against an independent model of what must restore.

Each client is a generator that does its work in small steps (``random_work``); a seeded choice
decides whose turn it is, so backups, restores, syncs, verifications and collections run into each
other at every place where they can meet. Clients die between two steps or inside a store call,
sessions of living ones are fenced, the clock jumps. The model knows nothing of the package: it
keeps the bytes of each disk at each backup and the words that clients were given.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Literal

from oracle import assert_nothing_is_missing
from support import points
from support.random_disks import State, assert_is
from support.random_work import VMS, Client, Clients
from support.repositories import CHEAP
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import AzStackError, Refused, SessionLost, SourceBusy
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import StoreWrapper

MEDDLING = 0.05  # how often somebody comes in between two store calls
DEPTH = 4  # and between those of that one, and so on
PASSPHRASE = Secret("of the random clients")
Key = tuple[str, str]  # VM key, point id

# What may be thrown at a client whose session was fenced, or whose point was forgotten meanwhile.
EXCUSED = (SessionLost, SourceBusy, Refused)


@dataclass
class Model:
    """What one repository must hold, and what it must not: the words that clients were given."""

    must: set[Key] = field(default_factory=set)  # reported as done
    gone: set[Key] = field(default_factory=set)  # reported as forgotten


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
    """A repository, its copy, clients, and who of them is next."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.entropy = Random(seed + 1)  # threads draw from it: it must not decide whose turn it is
        self.now = points.DAY_ONE
        self.store, self.copy_store = MemoryStore(), MemoryStore()
        for store in (self.store, self.copy_store):
            Repository.create(store, PASSPHRASE, kdf=CHEAP, random=self.entropy.randbytes)
        self.here, self.there = Model(), Model()
        self.ever: dict[Key, State] = {}  # what was backed up, whether that was published or not
        self.torn: set[Key] = set()  # whoever published them died in the middle of that
        self.running: list[Running] = []
        self.executing: list[Running] = []  # the one whose turn it is, and whom it came in between
        self.owners: dict[str, Running] = {}  # of sessions
        self.dead: list[Client] = []  # kept: a generator that is dropped runs its clean-up
        self.fences = self.depth = 0
        self.quiet = False
        self.thread = threading.get_ident()
        self.done: Counter[str] = Counter()
        self.clients = Clients(self)

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
            list(self.clients.backs_up(self.open(self.store), number))
            assert len(self.here.must) == published + 1
        list(self.clients.syncs(self.open(self.store), crash=0.0))
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
            "backup": (8, lambda r: self.clients.backs_up(r, self.rng.randrange(VMS))),
            "backup by another process": (3, self.clients.resumes),
            "restore": (3, self.clients.restores),
            "forget": (3, lambda r: self.clients.forgets(r, self.here)),
            "prune": (4, self.clients.prunes),
            "verify": (1, self.clients.verifies),
            "sync": (3, self.clients.syncs),
            "forget in the copy": (1, lambda r: self.clients.forgets(r, self.there)),
            "prune of the copy": (2, self.clients.prunes),
            "verify of the copy": (1, self.clients.verifies),
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
