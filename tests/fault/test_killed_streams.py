"""Processes that are killed while they back a disk up, and the runs that come after them."""

import hashlib
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

import pytest
from oracle import assert_nothing_is_missing, assert_repository_sound
from support.points import vm_key
from support.repositories import PASSPHRASE, new_repository
from support.stream_host import STEP, Host, Result, Task, whole_run

from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

MIB = 1024**2
DISK = 8 * MIB
PAUSE = 0.01
# In the order in which a run begins with them: the last of these tells how far a killed one came.
PARTS = ("sessions/", "claims/", "packs/", "index/", "images/", "points/", "jobs/")
STORED = PARTS[2:]  # whoever left one of these had stored something of the disk
KEPT = 3  # restore points; the others are forgotten, so that the oracle stays quick
VM = vm_key(1)


def names(repository: Repository) -> set[str]:
    return {info.name for part in PARTS for info in repository.store.list(part)}


class Nights:
    """One VM, a run each night that is killed, and the ordinary run after it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = Random(seed)
        self.store = folder / "repository"
        self.store.mkdir()
        new_repository(LocalStore(self.store)).close()
        self.disk, self.before = folder / "disk", folder / "before"
        self.disk.write_bytes(self.rng.randbytes(DISK))
        self.runs = 0
        self.seconds = 0.0  # that a run takes that nobody kills
        self.expected: dict[tuple[str, str], dict[str, str]] = {}
        self.left: Counter[str] = Counter()  # how far those came that were killed

    def open(self) -> Repository:
        return Repository.open(LocalStore(self.store), PASSPHRASE)

    def change(self) -> None:
        """The guest writes half of its disk anew, and clears some of it."""
        content = bytearray(self.disk.read_bytes())
        self.before.write_bytes(content)
        for start in self.rng.sample(range(0, DISK, STEP), DISK // STEP // 2):
            is_cleared = self.rng.random() < 0.1
            content[start : start + STEP] = bytes(STEP) if is_cleared else self.rng.randbytes(STEP)
        self.disk.write_bytes(content)

    def task(self, pause: float = PAUSE) -> Task:
        self.runs += 1
        before = str(self.before) if self.before.exists() else ""
        return Task(
            store=str(self.store),
            disk=str(self.disk),
            before=before,
            run=f"run-{self.runs}",
            number=1,
            day=self.runs,
            pause=pause,
        )

    def stream(self, kill_after: float | None = None) -> Result | None:
        """Let a process do a run, and kill it unless it is faster."""
        with Host(self.task()) as host:
            host.await_ready()
            host.begin()
            if kill_after is not None:
                time.sleep(kill_after)
                host.process.kill()
            result = host.result()
            # It may have ended in the moment in which it was killed.
            assert host.process.returncode == 0 or kill_after is not None
            assert host.process.returncode in (0, -signal.SIGKILL)
        if result:
            self.expect(result.point)
            self.seconds = result.ended - result.begun
        return result

    def expect(self, point: str) -> None:
        digest = hashlib.sha256(self.disk.read_bytes()).hexdigest()
        self.expected[VM, point] = {"os": digest}

    def night(self) -> None:
        """Kill a run, look, let the next one succeed, look."""
        self.change()
        repository = self.open()
        before = names(repository)
        if self.stream(self.rng.uniform(0, 1.05 * self.seconds)) is None:
            new = names(repository) - before
            parts = [part for part in PARTS if any(name.startswith(part) for name in new)]
            self.left[parts[-1] if parts else "nothing"] += 1
        for point in repository.points(VM):
            if (VM, point.id) not in self.expected:
                self.expect(point.id)  # put, and then killed
        assert_repository_sound(repository, self.expected)
        self.expect(whole_run(repository, self.task(pause=0)).id)
        assert_repository_sound(repository, self.expected)
        repository.close()

    def collect(self) -> None:
        """Forget all but the newest points, and delete what only they and the dead needed."""
        repository = self.open()
        old = [(VM, point.id) for point in repository.points(VM)[:-KEPT]]
        if old:
            forget(repository, old)
        for key in old:
            self.expected.pop(key)
        for _ in range(2):  # condemn, and then delete
            prune(repository)
        assert_repository_sound(repository, self.expected)
        repository.close()

    def end(self) -> None:
        """Nothing of the dead is left."""
        self.collect()
        repository = self.open()
        assert_nothing_is_missing(repository)
        store = repository.store
        assert list(store.list("sessions/")) == []
        assert list(store.list("claims/")) == []
        needed = {image.image for point in repository.points() for image in point.images}
        assert {info.name for info in store.list("images/")} == needed
        repository.close()


def kill_runs(folder: Path, kills: int, seed: int) -> Nights:
    """
    Kill so many runs, and more until one had stored something, at instants that ``seed`` tells.

    Whatever goes wrong names the seed; the instants are also the machine's.
    """
    nights = Nights(folder, seed)
    try:
        assert nights.stream(), "nobody killed it"
        number = 0
        while sum(nights.left.values()) < kills or not nights.left.keys() & {*STORED}:
            number += 1
            nights.night()
            if number % 5 == 0:
                nights.collect()
            assert number < 20 * kills, "runs end before they are killed, or before they store"
        nights.end()
    except BaseException as error:
        error.add_note(f"killed streams: seed {seed}; so far {dict(nights.left)}")
        raise
    print(f"killed streams: seed {seed}; {dict(nights.left)}")  # noqa: T201
    return nights


@pytest.mark.tier2
def test_a_few_killed_streams_lose_nothing(tmp_path: Path) -> None:
    """F-C7: whenever a process is killed, all points restore and the next run succeeds."""
    kill_runs(tmp_path, 8, seed=1)


@pytest.mark.tier3
@pytest.mark.timeout(1800)
def test_200_killed_streams_lose_nothing(tmp_path: Path) -> None:
    """F-C7: the same at 200 instants."""
    nights = kill_runs(tmp_path, 200, seed=SystemRandom().randrange(2**32))
    assert nights.left.keys() >= {"packs/", "index/"}
