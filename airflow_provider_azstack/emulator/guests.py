"""
Guest disks as guests leave them: a partition table, ext4, files, and changes to files.

Owns making and changing disk images without root, by e2fsprogs; knows no stack.
Invariant: whatever was done to an image, ``problems`` finds none in its file system.
"""

# ruff: noqa: S311  files of a test disk come from a seed, so that they come again
import random
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PARTITION_START = 1 << 20
_BLOCK = 4096
_WORDS = [
    "backup", "disk", "stack", "snapshot", "restore", "block", "page", "volume",
    "tenant", "region", "fabric", "update", "node", "cluster", "ticket", "invoice",
    "customer", "order", "report", "total", "monday", "night", "morning", "service",
    "running",
]  # fmt: skip
_TOOLS = ("mkfs.ext4", "debugfs", "e2fsck")
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/opt/homebrew/opt/e2fsprogs/sbin"


class MissingTools(RuntimeError):
    """The machine lacks e2fsprogs."""


@dataclass(frozen=True)
class GuestDisk:
    """A raw disk image with one ext4 partition."""

    path: Path
    size_bytes: int

    def files(self) -> dict[str, int]:
        """Return names and sizes of the files in the root of the file system."""
        listed = self._debugfs("ls -p /")
        rows = (line.split("/") for line in listed.splitlines() if line.startswith("/"))
        return {row[5]: int(row[6]) for row in rows if row[2].startswith("10")}

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "file"
            self._debugfs(f"dump /{_safe(name)} {target}")
            if not target.exists():
                raise FileNotFoundError(name)
            return target.read_bytes()

    def write(self, files: dict[str, bytes]) -> None:
        """Write files into the file system, replacing those of the same name."""
        there = self.files()
        with tempfile.TemporaryDirectory() as directory:
            commands = []
            for number, (name, data) in enumerate(files.items()):
                source = Path(directory) / str(number)
                source.write_bytes(data)
                commands += [f"rm /{_safe(name)}"] if name in there else []
                commands.append(f"write {source} {_safe(name)}")
            self._debugfs(*commands, write=True)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files."""
        self._debugfs(*(f"rm /{_safe(name)}" for name in names), write=True)

    def change(self, seed: int, *, count: int = 3, size_bytes: int = 64 << 10) -> list[str]:
        """Write new files, replace some and delete one, as a guest at work; return their names."""
        rng = random.Random(seed)
        there = sorted(self.files())
        replaced = rng.sample(there, min(count, len(there)))
        new = [f"change-{seed}-{number}.dat" for number in range(count)]
        self.write({name: noise(rng, size_bytes) for name in [*replaced, *new]})
        spare = [name for name in there if name not in replaced]
        deleted = spare[:1] if len(spare) > count else []
        if deleted:
            self.delete(deleted)
        return [*replaced, *new, *deleted]

    def problems(self) -> str:
        """Let ``e2fsck`` look at the file system; an empty text says that it is sound."""
        target = f"{self.path}?offset={PARTITION_START}"
        done = _run("e2fsck", "-f", "-n", target, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def _debugfs(self, *commands: str, write: bool = False) -> str:
        if not commands:
            return ""
        target = f"{self.path}?offset={PARTITION_START}"
        with tempfile.NamedTemporaryFile("w", suffix=".cmd") as script:
            script.write("\n".join([*commands, "quit"]) + "\n")
            script.flush()
            flags = ["-w"] if write else []
            done = _run("debugfs", *flags, "-f", script.name, target)
        complaint = _complaint(done.stderr)
        if complaint and write:
            raise RuntimeError(f"debugfs: {complaint}")
        return done.stdout


def build(
    path: Path,
    *,
    size_bytes: int = 64 << 20,
    content_bytes: int = 8 << 20,
    seed: int = 0,
    label: str = "guest",
) -> GuestDisk:
    """
    Build a disk image: an MBR with one Linux partition, ext4 in it, and files in that.

    :param path: is written, sparse.
    :param content_bytes: how much the files hold together; half of it compresses.
    """
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.write(_master_boot_record(size_bytes, seed))
    blocks = (size_bytes - PARTITION_START) // _BLOCK
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        write_tree(Path(directory), content_bytes, seed)
        _run(
            "mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-L", label, "-m", "0",
            "-U", _uuid(seed), "-d", directory,
            "-E", f"offset={PARTITION_START},lazy_itable_init=1,hash_seed={_uuid(seed)}",
            str(path), str(blocks),
        )  # fmt: skip
    return GuestDisk(path, size_bytes)


def write_tree(directory: Path, content_bytes: int, seed: int) -> None:
    """Fill a directory with files of many sizes: logs of words, and noise."""
    rng = random.Random(seed)
    left, number = content_bytes, 0
    while left > 0:
        size = min(left, int(rng.lognormvariate(11, 2)) + 1, 64 << 20)
        data = words(rng, size) if number % 2 else noise(rng, size)
        suffix = "log" if number % 2 else "bin"
        (directory / f"file-{number:05d}.{suffix}").write_bytes(data)
        left -= size
        number += 1
        if number % 1000 == 0:  # a root directory of thousands is slow to list
            directory = directory / f"more-{number}"
            directory.mkdir()


def noise(rng: random.Random, size_bytes: int) -> bytes:
    """Return bytes that do not compress."""
    return rng.randbytes(size_bytes)


def words(rng: random.Random, size_bytes: int) -> bytes:
    """Return text that compresses as logs do."""
    line = (" ".join(rng.choices(_WORDS, k=4096)) + "\n").encode()
    rows = [line[rng.randrange(len(line) // 2) :] for _ in range(size_bytes // len(line) * 2 + 2)]
    return b"".join(rows)[:size_bytes].ljust(size_bytes, b".")


def require_tools() -> None:
    """Raise when the machine lacks what this module runs."""
    missing = [tool for tool in _TOOLS if _tool(tool) is None]
    if missing:
        raise MissingTools(
            f"{', '.join(missing)} not found: install e2fsprogs (apt-get install e2fsprogs)"
        )


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def _run(tool: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    path = _tool(tool)
    if path is None:
        require_tools()
    done = subprocess.run(  # noqa: S603  a fixed tool, arguments made here
        [str(path), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _complaint(stderr: str) -> str:
    """Return what debugfs complains of; its first line is only its version."""
    lines = [line for line in stderr.splitlines() if not line.startswith("debugfs ")]
    return "; ".join(line.strip() for line in lines if line.strip())


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError(f"{name!r} is no plain file name")
    return name


def _uuid(seed: int) -> str:
    digits = f"{random.Random(seed).getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _master_boot_record(size_bytes: int, seed: int) -> bytes:
    """One bootable Linux partition from 1 MiB to the end."""
    first = PARTITION_START // 512
    count = size_bytes // 512 - first
    chs = b"\xfe\xff\xff"  # beyond what cylinders can say: read the sector numbers
    entry = b"\x80" + chs + b"\x83" + chs + struct.pack("<II", first, count)
    signature = struct.pack("<I", random.Random(seed).getrandbits(32))
    return bytes(440) + signature + bytes(2) + entry + bytes(48) + b"\x55\xaa"
