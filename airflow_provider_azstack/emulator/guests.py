"""
Guest disks as guests leave them: a partition table, ext4, files, and changes to files.

Owns making and changing disk images without root, by e2fsprogs; knows no stack.
Invariant: whatever was done to an image, ``problems`` finds none in its file system.
"""

# ruff: noqa: S311  files of a test disk come from a seed, so that they come again
import functools
import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PARTITION_START = 1 << 20
_BLOCK = 4096
_ROOT_TEXTS = 12
_SMALLEST = 16 << 10  # thousands of tiny files would make a demo wait
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
        """Edit some files, add as many, delete one, as a guest at work; return their names."""
        rng = random.Random(seed)
        there = sorted(self.files())
        edited = rng.sample(there, min(count, len(there)))
        files = {name: _edited(rng, self.read(name), seed) for name in edited}
        files |= {f"report-{seed}-{number}.txt": words(rng, size_bytes) for number in range(count)}
        self.write(files)
        spare = [name for name in there if name not in edited]
        deleted = spare[:1] if len(spare) > count else []
        self.delete(deleted)
        return [*files, *deleted]

    def extract(self, directory: Path) -> None:
        """Copy the whole tree of files out of the disk."""
        self._debugfs(f"rdump / {directory}")

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
    :param content_bytes: how much the files hold together, nearly.
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
    """
    Fill a directory with real files of this machine, chosen by seed: texts, programs, archives.

    The root holds plain texts for a guest to change. Where the machine has not enough files, made
    ones fill up.
    """
    rng = random.Random(seed)
    chosen = list(_real_files())
    rng.shuffle(chosen)
    left = content_bytes
    texts = (path for path, _ in chosen if path.suffix in {".py", ".txt"})
    for number, path in enumerate(itertools.islice(texts, _ROOT_TEXTS)):
        left -= (directory / f"notes-{number:02d}.txt").write_bytes(path.read_bytes()[: left // 20])
    for path, size in chosen:
        if size <= left:
            _copy(path, directory / "files" / path.relative_to(path.anchor))
            left -= size
        if left < _SMALLEST:
            return
    for number in itertools.count():
        size = min(left, int(rng.lognormvariate(14, 2)) + 1, 64 << 20)
        made = words(rng, size) if number % 2 else noise(rng, size)
        (directory / f"made-{number:05d}.dat").write_bytes(made)
        left -= size
        if left <= 0:
            return


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


@functools.cache
def _real_files() -> tuple[tuple[Path, int], ...]:
    """List the larger files of this Python and its packages with their sizes, in a fixed order."""
    roots = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")}
    sizes = {path: size for root in roots for path, size in _walk(root)}
    return tuple((Path(path), sizes[path]) for path in sorted(sizes))


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            # compiled files come and go while we look
            yield from _walk(entry.path) if entry.name != "__pycache__" else ()
        elif entry.is_file(follow_symlinks=False):
            size = entry.stat().st_size
            if _SMALLEST <= size <= 64 << 20:
                yield entry.path, size


def _edited(rng: random.Random, data: bytes, seed: int) -> bytes:
    """Add a line somewhere in the middle and a few at the end."""
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randint(0, len(lines)), f"# looked at this in change {seed}\n".encode())
    return b"".join(lines) + b"".join(words(rng, 80) + b"\n" for _ in range(5))


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
