"""
A disk that can lose its power: what a ``LocalStore`` did, replayed up to any moment.

``PowerCut`` passes every call on to the real system and keeps a log of those that change the disk.
``after(n)`` rebuilds a disk on which the first ``n`` happened and the power went, as POSIX allows:

- a file's bytes are safe once the file was synced,
- a folder's entries are safe once that folder was synced,
- of everything else each piece is there or not, as ``survives`` decides.

It does not model disks that lie about a sync, or blocks that a cut leaves half written.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Entries = dict[str, int]  # name -> inode; folders have inodes too

ROOT = 0


@dataclass
class Disk:
    """Folders and files by inode: as they are now, and as they would be after a cut."""

    entries: dict[int, Entries] = field(default_factory=lambda: {ROOT: {}})
    synced_entries: dict[int, Entries] = field(default_factory=lambda: {ROOT: {}})
    content: dict[int, bytes] = field(default_factory=dict)
    synced_content: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))

    def sync(self, inode: int) -> None:
        if inode in self.entries:
            self.synced_entries[inode] = dict(self.entries[inode])
        else:
            self.synced_content[inode] = self.content[inode]

    def write_to(self, folder: Path, survives: Callable[[], bool], inode: int = ROOT) -> None:
        """Write what a cut leaves of ``inode`` to a real folder."""
        now, safe = self.entries[inode], self.synced_entries.get(inode, {})
        for name in sorted(now.keys() | safe.keys()):
            same = now.get(name) == safe.get(name)
            found = (now if same or survives() else safe).get(name)
            if found in self.entries:
                (folder / name).mkdir()
                self.write_to(folder / name, survives, found)
            elif found is not None:
                whole = survives()
                content = self.content[found] if whole else self.synced_content[found]
                (folder / name).write_bytes(content)


class PowerCut:
    """
    The operating system's calls, recorded.

    :param ignored: ``"file"`` or ``"folder"``: syncs of these are claimed, not done. With one of
        them a test shows that it would notice a sync that is missing.
    """

    def __init__(self, ignored: str = "") -> None:
        self._ignored = ignored
        self._log: list[Callable[[Disk], None]] = []
        self._inodes: dict[int, int] = {}  # open descriptor -> inode
        self._disk = Disk()
        self._next = ROOT + 1

    def __len__(self) -> int:
        return len(self._log)

    def after(self, count: int) -> Disk:
        """Return the disk after the first ``count`` changes."""
        disk = Disk()
        for change in self._log[:count]:
            change(disk)
        return disk

    def __getattr__(self, call: str) -> Any:
        return getattr(os, call)  # reads

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        if dir_fd is None:
            self._inodes[descriptor] = ROOT
            return descriptor
        parent = self._inodes[dir_fd]
        if flags & os.O_CREAT:
            self._create(parent, path, is_folder=False)
        self._inodes[descriptor] = self._disk.entries[parent][path]
        return descriptor

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        del self._inodes[descriptor]

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:
        os.mkdir(path, mode, dir_fd=dir_fd)
        self._create(self._inodes[dir_fd], path, is_folder=True)

    def writev(self, descriptor: int, views: Sequence[memoryview]) -> int:
        # Short on purpose: half of what was asked for, and the store has to come again.
        data = b"".join(views)
        written = os.write(descriptor, data[: max(1, len(data) // 2)])
        inode = self._inodes[descriptor]

        def change(disk: Disk) -> None:
            disk.content[inode] += data[:written]

        self._do(change)
        return written

    def link(self, source: str, target: str, *, dst_dir_fd: int, **rest: Any) -> None:
        os.link(source, target, dst_dir_fd=dst_dir_fd, **rest)
        parent = self._inodes[dst_dir_fd]
        inode = self._disk.entries[parent][source]
        self._do(lambda disk: disk.entries[parent].update({target: inode}))

    def unlink(self, path: str, *, dir_fd: int) -> None:
        os.unlink(path, dir_fd=dir_fd)
        parent = self._inodes[dir_fd]
        self._do(lambda disk: disk.entries[parent].pop(path) and None)

    def fsync(self, descriptor: int) -> None:
        inode = self._inodes[descriptor]
        kind = "folder" if inode in self._disk.entries else "file"
        if kind != self._ignored:
            self._do(lambda disk: disk.sync(inode))

    def _create(self, parent: int, name: str, *, is_folder: bool) -> None:
        inode = self._next
        self._next += 1

        def change(disk: Disk) -> None:
            disk.entries[parent][name] = inode
            if is_folder:
                disk.entries[inode] = {}
            else:
                disk.content[inode] = b""

        self._do(change)

    def _do(self, change: Callable[[Disk], None]) -> None:
        change(self._disk)
        self._log.append(change)
