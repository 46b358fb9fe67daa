"""A directory as a store: full disks, broken disks, killed writers, and files that are not ours."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounts import ext4, tmpfs
from support.stores import FailingSystem, failing_disk, plant_temporary_file

from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreFull,
    Unreachable,
)
from airflow_provider_azstack.store.folders import TEMPORARY
from airflow_provider_azstack.store.guard import ReadOnlyStore
from airflow_provider_azstack.store.local import LocalStore

tier1 = pytest.mark.tier1
tier2 = pytest.mark.tier2


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir()}


def refusal(call: Callable[[], None]) -> str:
    try:
        call()
    except StoreFull as error:
        return str(error)
    return ""


def descriptors(directory: Path) -> int:
    """How many of our open files and folders are there; sockets of earlier tests come and go."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += link.readlink().is_relative_to(directory)
    return found


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path, 2) if request.param == "tmpfs" else ext4(tmp_path, 8) as place:
        yield place


@tier2
def test_a_full_disk_says_so_and_stays_usable(small_disk: Path) -> None:
    """F-S1: names the bytes needed, leaves nothing behind; reading and deleting still work."""
    store = LocalStore(small_disk)
    for size in (300_000, 4_096, 1):
        with pytest.raises(StoreFull) as full:
            for number in range(10_000):
                store.put(f"packs/{size}/{number}", os.urandom(size))
        assert f"{size} bytes needed" in str(full.value)
        assert full.value.never_retry
        assert not [name for name in files(small_disk) if TEMPORARY in name]
    stored = list(store.list("packs/"))
    assert all(len(store.get(info.name)) == info.size_bytes for info in stored)
    big = [info.name for info in stored if info.size_bytes == 300_000]
    for name in big[:2]:
        store.delete(name)
    store.put("packs/after", bytes(300_000))
    assert store.get("packs/after") == bytes(300_000)


@tier1
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "open", "writev", "fsync", "link"])
def test_a_full_disk_or_quota_at_every_step_of_a_put(
    tmp_path: Path, call: str, number: int
) -> None:
    """F-S1, F-S2: whichever call is refused, the put has no effect and is not tried again."""
    reached = 0
    for after in range(20):
        directory = tmp_path / str(after)
        directory.mkdir()
        system = FailingSystem(number, call, after=after, times=1)
        store = LocalStore(directory, system=system)
        full = refusal(lambda s=store: s.put("packs/ab/one", [b"x" * 5, b"y" * 5]))
        if full:
            reached += 1
            assert "packs/ab/one" in full
            assert "10 bytes needed" in full
            assert system.counts["link"] <= 1
            assert files(directory) == set()
            store.put("packs/ab/one", b"fits now")
        assert files(directory) == {"packs/ab/one"}
    assert reached


@tier1
@pytest.mark.parametrize("call", ["open", "writev", "fsync", "link"])
def test_a_disk_error_on_writing_is_tried_once_more(tmp_path: Path, call: str) -> None:
    """F-S3: once is survived; always fails with the object's name and leaves nothing."""
    failing_disk(tmp_path, call, times=1).put("packs/ab/one", b"content")
    assert LocalStore(tmp_path).get("packs/ab/one") == b"content"
    store = failing_disk(tmp_path, call, times=1_000)
    with pytest.raises(StoreError, match=r"packs/ab/two.*Input/output error"):
        store.put("packs/ab/two", b"content")
    assert files(tmp_path) == {"packs/ab/one"}


@tier1
def test_a_link_whose_answer_was_lost_is_our_own(tmp_path: Path) -> None:
    """F-S23: NFS asks for it again, and is told that the name is taken."""

    class Lossy:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *names: str, **options: Any) -> None:
            os.link(*names, **options)
            os.link(*names, **options)

    store = LocalStore(tmp_path, system=Lossy())
    store.put("packs/ab/one", b"content")
    assert files(tmp_path) == {"packs/ab/one"}
    with pytest.raises(ObjectExists):
        store.put("packs/ab/one", b"content")
    assert files(tmp_path) == {"packs/ab/one"}


@tier1
@pytest.mark.parametrize("call", ["open", "stat", "pread", "link"])
def test_a_folder_that_its_server_forgot_is_opened_again(tmp_path: Path, call: str) -> None:
    """F-S23: ESTALE is of what was opened; from the root, it is there."""
    store = LocalStore(tmp_path, system=FailingSystem(errno.ESTALE, call, times=1))
    store.put("packs/ab/one", b"content")
    assert store.get("packs/ab/one") == b"content"


@tier1
def test_after_a_failed_sync_the_bytes_are_written_again(tmp_path: Path) -> None:
    """A second sync of the same file would succeed without having written anything."""
    system = FailingSystem(errno.EIO, "fsync", times=1)
    LocalStore(tmp_path, system=system).put("one", b"content")
    assert system.counts["writev"] == 2


@tier1
@pytest.mark.parametrize(
    ("call", "read"), [("pread", "get"), ("stat", "info"), ("scandir", "list")]
)
def test_a_disk_error_on_reading_is_tried_once_more(tmp_path: Path, call: str, read: str) -> None:
    """F-S3."""
    LocalStore(tmp_path).put("points/vm/one", b"content")

    def use(store: LocalStore) -> object:
        if read == "list":
            return list(store.list("points/vm/"))
        return getattr(store, read)("points/vm/one")

    assert use(failing_disk(tmp_path, call, times=1)) == use(LocalStore(tmp_path))
    with pytest.raises(StoreError, match="points/vm/"):
        use(failing_disk(tmp_path, call, times=1_000))


@tier1
def test_a_listing_that_breaks_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    """F-S11: a folder that cannot be read does not look like an empty one."""
    store = LocalStore(tmp_path)
    store.put("packs/00/a", b"x")
    store.put("packs/01/b", b"x")
    broken = LocalStore(tmp_path, system=FailingSystem(errno.EIO, "scandir", after=1, times=1_000))
    with pytest.raises(StoreError):
        list(broken.list("packs/"))
    blind = LocalStore(tmp_path, system=FailingSystem(errno.EACCES, "scandir", times=1_000))
    with pytest.raises(AccessDenied, match="check owner"):
        list(blind.list("packs/"))


@tier1
def test_short_writes_are_continued(tmp_path: Path) -> None:
    """The kernel may take less than it was given, in the middle of any buffer."""

    class Slow(FailingSystem):
        def writev(self, file: int, views: list[memoryview]) -> int:
            return os.write(file, b"".join(views)[:3])

    buffers = [b"0123", b"4", b"56789", b"ab"]
    LocalStore(tmp_path, system=Slow(0)).put("one", buffers)
    assert LocalStore(tmp_path).get("one") == b"0123456789ab"


@tier1
def test_what_is_no_regular_file_is_never_followed(tmp_path: Path) -> None:
    """F-H4: links, pipes, sockets and folders with a good name are passed over and refused."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("outside")
    root = tmp_path / "store"
    (root / "packs").mkdir(parents=True)
    store = LocalStore(root)
    store.put("packs/good", b"good")
    (root / "packs" / "link").symlink_to(secret / "file")
    (root / "packs" / "dangling").symlink_to(secret / "none")
    os.mkfifo(root / "packs" / "pipe")
    (root / "packs" / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "packs" / "socket"))
    (root / "linked").symlink_to(secret)

    assert list(store.list("")) == [("packs/good", 4)]
    for leaf in ("link", "dangling", "pipe", "socket", "folder"):
        name = f"packs/{leaf}"
        for call in (store.get, store.info, store.delete, lambda n: store.get_range(n, 0, 1)):
            with pytest.raises(StoreError, match="not a regular file"):
                call(name)
        with pytest.raises(ObjectExists):
            store.put(name, b"x")
    for call in (store.get, store.delete, lambda n: store.put(n, b"x")):
        with pytest.raises(StoreError, match="linked/file"):
            call("linked/file")
    with pytest.raises(StoreError):
        list(store.list("linked/"))
    assert (secret / "file").read_text() == "outside"
    assert files(secret) == {"file"}


@tier1
def test_names_that_are_not_ours_are_passed_over(tmp_path: Path) -> None:
    """F-H4: whoever can write into the directory cannot make a listing return his names."""
    store = LocalStore(tmp_path)
    store.put("packs/good", b"x")
    for alien in ("UPPER", "sp ace", "new\nline", "ünicode", ".hidden", "a..b", "x" * 200):
        (tmp_path / "packs" / alien).write_bytes(b"x")
        (tmp_path / f"{alien}-folder").mkdir()
        (tmp_path / f"{alien}-folder" / "inside").write_bytes(b"x")
    (tmp_path / "packs" / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    deep = tmp_path / "/".join("d" * 60)
    deep.mkdir(parents=True)
    (deep / "object").write_bytes(b"x")
    listed = [info.name for info in store.list("")]
    assert listed == ["packs/good"]


KILLED = """
import os, signal, sys
from airflow_provider_azstack.store.local import LocalStore

class Deadly:
    def __getattr__(self, name):
        return getattr(os, name)

    def fsync(self, file):
        if "fsync" in sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL if "kill" in sys.argv[2] else signal.SIGSTOP)
        os.fsync(file)

LocalStore(sys.argv[1], system=Deadly()).put("one", b"x" * 1000)
"""


@tier2
def test_what_a_killed_writer_left_is_invisible_and_swept(tmp_path: Path) -> None:
    """A real ``kill -9`` in the middle of a put."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "kill at fsync"], check=False, timeout=250
    )
    assert done.returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 1
    store = LocalStore(tmp_path)
    assert list(store.list("")) == []
    store.put("two", b"2")
    assert files(tmp_path) == {"two"}


@tier2
def test_a_living_writers_file_is_not_swept_however_slow_it_is(tmp_path: Path) -> None:
    """Stopped for as long as it takes, not dead: its lock tells, no clock is asked."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), "stop at fsync"]
    with subprocess.Popen(command) as slow:
        try:
            os.waitid(os.P_PID, slow.pid, os.WSTOPPED)
            LocalStore(tmp_path).put("two", b"2")
            assert len(files(tmp_path)) == 2
            deadline = time.monotonic() + 120
            while slow.poll() is None and time.monotonic() < deadline:
                slow.send_signal(signal.SIGCONT)
                time.sleep(0.02)
        finally:
            slow.kill()  # nothing, unless a line above failed
    assert slow.returncode == 0
    assert files(tmp_path) == {"one", "two"}


@tier1
def test_leftovers_are_swept_by_the_first_put_into_their_folder(tmp_path: Path) -> None:
    plant_temporary_file(tmp_path, "packs/ab/one", b"x" * 100)
    plant_temporary_file(tmp_path, "packs/cd/one", b"x" * 100)
    store = LocalStore(tmp_path)
    assert list(store.list("")) == []
    store.put("packs/ab/two", b"2")
    assert {name[:9] for name in files(tmp_path)} == {"packs/ab/", "packs/cd/"}
    store.put("packs/cd/two", b"2")
    assert files(tmp_path) == {"packs/ab/two", "packs/cd/two"}


@tier1
def test_a_temporary_file_that_vanishes_is_written_again(tmp_path: Path) -> None:
    """Another process swept it in the moment before it was locked."""

    class Swept(FailingSystem):
        swept = False

        def link(self, source: str, target: str, **kwargs: int) -> None:
            if not self.swept:
                self.swept = True
                os.unlink(source, dir_fd=kwargs["src_dir_fd"])
            os.link(source, target, **kwargs)

    LocalStore(tmp_path, system=Swept(0)).put("one", b"content")
    assert LocalStore(tmp_path).get("one") == b"content"
    assert files(tmp_path) == {"one"}


@tier1
def test_a_directory_that_was_unmounted_is_not_an_empty_store(tmp_path: Path) -> None:
    """F-S12: neither a missing nor another directory passes for the one that was opened."""
    root = tmp_path / "store"
    root.mkdir()
    store = LocalStore(root)
    store.put("points/vm/one", b"x")
    root.rename(tmp_path / "away")
    for call in (lambda: list(store.list("")), lambda: store.exists("points/vm/one")):
        with pytest.raises(Unreachable, match="mounted"):
            call()
    root.mkdir()
    for call in (lambda: list(store.list("")), lambda: store.put("points/vm/two", b"")):
        with pytest.raises(Unreachable, match="mounted"):
            call()
    assert files(root) == set()


@tier1
def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("packs/ab/one", b"x")
    store.delete("packs/ab/one")
    (tmp_path / "packs" / "ab").rmdir()
    store.put("packs/ab/two", b"y")
    assert store.get("packs/ab/two") == b"y"
    with pytest.raises(ObjectNotFound):
        store.get("packs/ab/one")


@tier1
def test_a_directory_of_another_machine_is_not_near(tmp_path: Path) -> None:
    """Many threads read at once where that waits for a network; elsewhere they only compete."""

    class Mounted(LocalStore):
        def file_system(self, mounts: Path = tmp_path) -> str:
            return "nfs4"

    assert LocalStore(tmp_path).is_near
    assert ReadOnlyStore(LocalStore(tmp_path)).is_near
    assert not ReadOnlyStore(Mounted(tmp_path)).is_near


@tier1
def test_a_file_system_without_hard_links_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, system=FailingSystem(errno.EPERM, "link", times=9))
    with pytest.raises(ConfigurationError, match="hard links"):
        store.put("one", b"x")
    assert files(tmp_path) == set()


@tier1
def test_a_read_only_directory_is_told_as_such(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, system=FailingSystem(errno.EROFS, "open", after=1, times=9))
    with pytest.raises(AccessDenied, match=r"one.*Read-only"):
        store.put("one", b"x")


@tier1
def test_the_directory_must_exist_and_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for wrong in (tmp_path / "missing", tmp_path / "file", Path("relative")):
        with pytest.raises(ConfigurationError, match=wrong.name):
            LocalStore(wrong)


@tier1
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("packs/ab/one", b"x")
    before = descriptors(tmp_path)
    store.put("packs/ab/two", b"x")
    store.get("packs/ab/two")
    list(store.list(""))
    store.delete("packs/ab/two")
    for name in ("packs/ab/none", "none/none"):
        with pytest.raises(ObjectNotFound):
            store.get(name)
    with pytest.raises(ObjectExists):
        store.put("packs/ab/one", b"")
    next(iter(store.list("")))
    assert descriptors(tmp_path) == before
    with (tmp_path / "open").open("wb"):
        assert descriptors(tmp_path) == before + 1, "it is counted"
