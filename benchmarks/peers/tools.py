"""
How each program makes a repository, backs a disk up, restores it and verifies everything.

All encrypt where they can, compress with zstd at level 1 to 3 or their own fastest, read holes as
holes where they can, and read everything that they are given: no modification time tells them that
a disk is the same as yesterday, because a snapshot's does not. Ours and the fastest of the others
run once more with what costs them least CPU time to compress, where there are new blocks.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from measure import Command

HERE = Path(__file__).resolve().parent
PASSPHRASE = "only the benchmark's"  # noqa: S105 - its repositories are deleted with it
DISK = "disk.img"
BLOCKS = "4194304"  # 4 MiB: borg's and benji's best on such disks
STEPS = ("first", "unchanged", "day", "sibling", "database", "restore", "verify")
WITH_NEW_BLOCKS = ("first", "day", "sibling")


class Tool:
    """A program at work in one directory; what it stores is in ``repository`` there."""

    name: ClassVar[str]
    program: ClassVar[str]  # below the directory that install.sh filled
    is_ours: ClassVar[bool] = False
    knows_changes: ClassVar[bool] = False  # is told which ranges changed
    is_encrypted: ClassVar[bool] = True
    rounds: ClassVar[int | None] = None  # at most so many: it is slow
    steps: ClassVar[Sequence[str]] = STEPS
    uses_zstd: ClassVar[bool] = True

    def __init__(self, place: Path, peers: Path) -> None:
        self.place = place
        self.repository = place / "repository"
        self.disk = place / "source" / DISK  # a link to the disk of the step
        self.target = place / "restored"
        self._peers = peers

    @classmethod
    def find(cls, peers: Path) -> Path | None:
        """Return the program, or None where it is not installed."""
        path = peers / cls.program
        return path if path.exists() else None

    def create(self) -> Iterator[Command]:
        """Yield what makes the repository."""
        raise NotImplementedError

    def back_up(self, step: str, based_on: str) -> Command:
        """Return what backs up the disk under the name of a step."""
        raise NotImplementedError

    def restore(self, step: str) -> Command:
        """Return what restores a step's backup to ``restored_file``."""
        raise NotImplementedError

    def verify(self) -> Command:
        """Return what reads and checks everything that is stored."""
        raise NotImplementedError

    @property
    def restored_file(self) -> Path:
        """Where ``restore`` puts the disk."""
        return self.target / DISK

    def _command(self, *arguments: str | Path, directory: Path | None = None) -> Command:
        program = self._peers / self.program
        return Command([program, *arguments], self._environment(), directory or self.place)

    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.place)}


class Ours(Tool):
    """Our engine, which finds out by content what changed."""

    name = "azstack"
    is_ours = True
    compression: ClassVar[str] = "standard"

    @classmethod
    def find(cls, _peers: Path) -> Path | None:
        return Path(sys.executable)

    def create(self) -> Iterator[Command]:
        yield self._azstack("init")

    def back_up(self, step: str, based_on: str) -> Command:
        told = ("--changes-known",) if self.knows_changes else ()
        told += ("--like", "first") if step == "sibling" else ()  # as a job is told by the stack
        run = ("--run", step, "--based-on", based_on, "--compression", self.compression, *told)
        return self._python(HERE / "ours.py", "--disk", self.disk, *run)

    def restore(self, _step: str) -> Command:
        return self._azstack("export", "benchmark", "latest", "os", "--to", self.restored_file)

    def verify(self) -> Command:
        return self._azstack("verify", "--full")

    def _azstack(self, *arguments: str | Path) -> Command:
        return self._python("-m", "airflow_provider_azstack", *arguments)

    def _python(self, *arguments: str | Path) -> Command:
        return Command([sys.executable, *arguments], self._environment(), self.place)

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            "PYTHONPATH": str(HERE.parent.parent),
            "AZSTACK_REPOSITORY": str(self.repository),
            "AZSTACK_PASSPHRASE": PASSPHRASE,
            "AZSTACK_CACHE_DIRECTORY": str(self.place / "cache"),
        }


class OursKnowingChanges(Ours):
    """Our engine, which is told what changed, as a stack tells it."""

    name = "azstack, told"
    knows_changes = True


class OursFast(Ours):
    """Our engine, by content, as a policy asks for it that would rather spend bytes than CPU."""

    name = "azstack, fast"
    compression = "fast"
    steps = WITH_NEW_BLOCKS


class Restic(Tool):
    """Restic with its fastest compression."""

    name = "restic"
    program = "bin/restic"

    def create(self) -> Iterator[Command]:
        yield self._command("init")

    def back_up(self, step: str, based_on: str) -> Command:
        options = ["--compression", "fastest", "--tag", step, "--host", "vm"]
        options += ["--force"] if based_on else []
        return self._command("backup", *options, DISK, directory=self.disk.parent)

    def restore(self, step: str) -> Command:
        options = ("--tag", step, "--sparse", "--target", self.target)
        return self._command("restore", "latest", *options)

    def verify(self) -> Command:
        return self._command("check", "--read-data")

    @property
    def restored_file(self) -> Path:
        found = list(self.target.rglob(DISK))
        return found[0] if found else super().restored_file

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": str(self.place / "cache"),
        }


class Borg(Tool):
    """Borg 1.4 with blocks of fixed size; SHA-256 is its faster id where the CPU helps."""

    name = "borg 1.4"
    program = "borg1/bin/borg"
    compression: ClassVar[str] = "zstd,1"

    def create(self) -> Iterator[Command]:
        yield self._command("init", "--encryption", "repokey")

    def back_up(self, step: str, _based_on: str) -> Command:
        read = ("--chunker-params", f"fixed,{BLOCKS}", "--sparse", "--files-cache", "disabled")
        options = (*read, "--compression", self.compression, self._archive(step))
        return self._command("create", *options, DISK, directory=self.disk.parent)

    def restore(self, step: str) -> Command:
        return self._command("extract", "--sparse", self._archive(step), directory=self.target)

    def verify(self) -> Command:
        return self._command("check", "--verify-data")

    def _archive(self, step: str) -> str:
        return f"::{step}"

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(self.place / "home"),
        }


class BorgLz4(Borg):
    """Borg 1.4 with what it compresses with unless it is told otherwise."""

    name = "borg 1.4, lz4"
    compression = "lz4"
    steps = WITH_NEW_BLOCKS
    uses_zstd = False


class Borg2(Borg):
    """The beta of borg 2."""

    name = "borg 2"
    program = "borg2/bin/borg"

    def create(self) -> Iterator[Command]:
        yield self._command("repo-create", "--encryption", "aes256-ocb", "--id-hash", "blake3")

    def _archive(self, step: str) -> str:
        return step


class Borg2Lz4(Borg2):
    """Borg 2, likewise."""

    name = "borg 2, lz4"
    compression = "lz4"
    steps = WITH_NEW_BLOCKS
    uses_zstd = False


class Benji(Tool):
    """Benji, which is told what changed: without that it is slower than all others."""

    name = "benji, told"
    program = "benji/bin/benji"
    knows_changes = True

    def create(self) -> Iterator[Command]:
        self.repository.mkdir()
        configuration = {
            "configurationVersion": "1",
            "blockSize": int(BLOCKS),
            "databaseEngine": f"sqlite:///{self.repository}/benji.sqlite",
            "defaultStorage": "here",
            "disallowRemoveWhenYounger": 0,
            "storages": [
                {
                    "name": "here",
                    "storageId": 1,
                    "module": "file",
                    "configuration": {
                        "path": str(self.repository),
                        "activeTransforms": ["zstd", "aes"],
                    },
                }
            ],
            "transforms": [
                {"name": "zstd", "module": "zstd", "configuration": {"level": 1}},
                {
                    "name": "aes",
                    "module": "aes_256_gcm",
                    "configuration": {
                        "kdfSalt": "QkVOQ0hNQVJLU0FMVA==",
                        "kdfIterations": 20000,
                        "password": PASSPHRASE,
                    },
                },
            ],
            "ios": [{"name": "file", "module": "file"}],
        }
        self._configuration.write_text(json.dumps(configuration))
        yield self._benji("database-init")

    def back_up(self, step: str, based_on: str) -> Command:
        options: list[str | Path] = ["--uid", step]
        changes = self.disk.with_suffix(".json")
        if based_on and changes.exists():
            hints = [
                {"offset": offset, "length": length, "exists": "true"}
                for offset, length in json.loads(changes.read_text())
            ]
            path = self.place / "hints.json"
            path.write_text(json.dumps(hints))
            options += ["--rbd-hints", path, "--base-version", based_on]
        return self._benji("backup", *options, f"file:{self.disk}", "vm")

    def restore(self, step: str) -> Command:
        return self._benji("restore", "--sparse", "--force", step, f"file:{self.restored_file}")

    def verify(self) -> Command:
        return self._benji("batch-deep-scrub")

    @property
    def _configuration(self) -> Path:
        return self.place / "benji.json"

    def _benji(self, *arguments: str | Path) -> Command:
        settings = ("--config-file", self._configuration, "--log-level", "WARNING")
        return self._command(*settings, *arguments)


class Desync(Tool):
    """Desync with chunks of 1 MiB; it does not encrypt."""

    name = "desync"
    program = "bin/desync"
    is_encrypted = False
    rounds = 1

    def create(self) -> Iterator[Command]:
        self.repository.mkdir()
        yield from ()

    def back_up(self, step: str, _based_on: str) -> Command:
        index = self._index(step)
        chunks = ("--chunk-size", "256:1024:4096")
        return self._command("make", *chunks, "--store", self.repository, index, self.disk)

    def restore(self, step: str) -> Command:
        return self._command(
            "extract", "--store", self.repository, self._index(step), self.restored_file
        )

    def verify(self) -> Command:
        return self._command("verify", "--store", self.repository)

    def _index(self, step: str) -> Path:
        return self.repository / f"{step}.caibx"


TOOLS: tuple[type[Tool], ...] = (
    Ours,
    OursKnowingChanges,
    OursFast,
    Restic,
    Borg,
    BorgLz4,
    Borg2,
    Borg2Lz4,
    Benji,
    Desync,
)


def link(source: Path, target: Path, *, is_unchanged: bool) -> None:
    """Put a disk and the list of its changes where a tool reads it, in place of the last one."""
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    target.hardlink_to(source)
    changes = json.loads(source.with_suffix(".json").read_text()) if _has_list(source) else None
    changes = [] if is_unchanged else changes
    target.with_suffix(".json").unlink(missing_ok=True)
    if changes is not None:
        target.with_suffix(".json").write_text(json.dumps(changes))


def _has_list(disk: Path) -> bool:
    return disk.with_suffix(".json").exists()
