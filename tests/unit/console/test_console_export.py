"""``azstack export``: a guest's disk out of the repository, without a stack and without Airflow."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import flip_files
from support.disks import PASSPHRASE
from support.guest_points import disk_of, repository_with

import airflow_provider_azstack
from airflow_provider_azstack.console import main
from airflow_provider_azstack.emulator.guests import GuestDisk

ROOT = Path(airflow_provider_azstack.__file__).parents[1]
EXPORT = ["export", "vm-1", "latest", "os"]
SMALL = {"size_bytes": 24 << 20, "content_bytes": 4 << 20}


@pytest.fixture
def guest(
    tmp_path: Path, guest_disk: Callable[..., GuestDisk], monkeypatch: pytest.MonkeyPatch
) -> GuestDisk:
    """A disk with ext4 whose backup is in a repository that the environment leads to."""
    disk = guest_disk("web", **SMALL)
    repository, _ = repository_with(tmp_path / "store", os=disk_of(disk.path))
    repository.close()
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "store"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    return disk


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def console(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": "/nonexistent"}
    script = (
        "import sys; from airflow_provider_azstack.console import main; "
        "state = main(sys.argv[1:]); "
        "assert not [m for m in sys.modules if m.split('.')[0] == 'airflow']; sys.exit(state)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environ,
        capture_output=True,
        timeout=250,
        check=False,
        **options,
    )


@pytest.mark.tier2
def test_an_exported_disk_is_the_guests_and_its_file_system_is_sound(
    guest: GuestDisk, tmp_path: Path
) -> None:
    """F-R6: with a URL and a passphrase; bit-exact; e2fsck finds nothing; no session is left."""
    target = tmp_path / "out.img"
    done = console("export", "vm-1", "latest", "os", "--to", str(target), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size_bytes"] == guest.size_bytes
    assert digest(target) == digest(guest.path)
    assert GuestDisk(target, guest.size_bytes).problems() == ""
    assert not list((tmp_path / "store" / "sessions").glob("*"))


@pytest.mark.tier2
def test_a_disk_goes_down_a_pipe(guest: GuestDisk) -> None:
    """F-R6: standard output holds the disk and nothing else; the VHD ends with its footer."""
    raw = console("export", "vm-1", "latest", "vm-1-os", "--to", "-")
    assert raw.returncode == 0, raw.stderr
    assert raw.stdout == guest.path.read_bytes()
    vhd = console("export", "vm-1", "latest", "os", "--format", "vhd", "--to", "-")
    assert vhd.stdout[:-512] == raw.stdout
    assert vhd.stdout[-512:-504] == b"conectix"


@pytest.mark.tier2
def test_a_pipe_that_breaks_is_a_failure(guest: GuestDisk) -> None:
    """Half a disk is no success, whatever the reader was content with."""
    reading, writing = os.pipe()
    os.close(reading)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "airflow_provider_azstack", *EXPORT, "--to", "-"],
        env=environ,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=250,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 2
    assert b"was closed by its reader" in done.stderr


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["export", "vm-1", "latest", "data-0", "--to", "out"], "has no disk 'data-0': it has os"),
        (["export", "vm-1", "p-9", "os", "--to", "out"], "has no restore point 'p-9'"),
        (["export", "vm-1", "latest", "os", "--to", "/proc/none/out"], "No such file"),
        (["export", "vm-1", "latest", "os", "--to", "taken"], "taken exists"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    guest: GuestDisk,
    arguments: list[str],
    advice: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken").write_text("precious")
    assert main([*arguments[:-1], str(tmp_path / arguments[-1])]) == 2
    printed = capsys.readouterr()
    assert advice in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.tier1
def test_a_salvage_with_losses_has_a_state_of_its_own(
    guest: GuestDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-R4: fails by default; with --salvage state 1, and each lost range is listed."""
    [pack] = (tmp_path / "store" / "packs").glob("*/*")
    flip_files([pack], pack.stat().st_size // 2)
    target = tmp_path / "out.img"
    command = ["export", "vm-1", "latest", "os", "--to", str(target)]
    assert main(command) == 2
    assert "disk offset" in capsys.readouterr().err
    assert not target.exists()
    assert main([*command, "--salvage", "--json"]) == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["lost"]
    assert printed.err.count("lost:") == len(report["lost"])
    exported, original = target.read_bytes(), bytearray(guest.path.read_bytes())
    for lost in report["lost"]:
        original[lost["offset"] : lost["offset"] + lost["length"]] = bytes(lost["length"])
    assert exported == original


@pytest.mark.tier1
def test_a_repository_that_may_only_be_read_is_read(
    guest: GuestDisk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """F-R6: credentials that may not even write a session still get the data out."""
    from airflow_provider_azstack import store
    from airflow_provider_azstack.store.guard import ReadOnlyStore
    from airflow_provider_azstack.store.local import LocalStore

    monkeypatch.setattr(
        store, "open_store", lambda *_, **__: ReadOnlyStore(LocalStore(tmp_path / "store"))
    )
    target = tmp_path / "out.img"
    assert main(["export", "vm-1", "latest", "os", "--to", str(target)]) == 0
    assert "do not prune meanwhile" in capsys.readouterr().err
    assert digest(target) == digest(guest.path)


@pytest.mark.tier2
def test_a_served_disk_can_be_copied_and_ends_with_its_server(
    guest: GuestDisk, tmp_path: Path
) -> None:
    """The first line is the address; on SIGTERM the socket and the session are gone, state 0."""
    place = tmp_path / "socket"
    command = [sys.executable, "-m", "airflow_provider_azstack", "nbd", *EXPORT[1:]]
    with subprocess.Popen(
        [*command, "--socket", str(place)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        assert uri == f"nbd+unix:///?socket={place}"
        if shutil.which("qemu-img"):
            copy = tmp_path / "copy"
            subprocess.run(["qemu-img", "convert", "-O", "raw", uri, str(copy)], check=True)
            assert digest(copy) == digest(guest.path)
        assert list((tmp_path / "store" / "sessions").iterdir())
        server.terminate()
        assert server.wait(120) == 0
    assert not place.exists()
    assert not list((tmp_path / "store" / "sessions").glob("*"))


@pytest.mark.tier2
def test_an_export_that_is_told_to_stop_closes_its_session(
    guest: GuestDisk, tmp_path: Path
) -> None:
    """`kill` and a service manager's stop are like Ctrl-C: nobody has to clean up after them."""
    command = [sys.executable, "-m", "airflow_provider_azstack", *EXPORT, "--to", "-"]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="latin-1",
    ) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        assert export.stdout.read(1)  # it has begun, and the pipe takes no more than 64 KiB
        assert list((tmp_path / "store" / "sessions").iterdir())
        export.terminate()
        assert export.wait(120) == 2
        assert "error: interrupted" in export.stderr.read()
    assert not list((tmp_path / "store" / "sessions").glob("*"))


@pytest.mark.tier1
def test_formats_that_are_not_written_in_order_need_a_file(
    guest: GuestDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EXPORT, "--format", "qcow2", "--to", "-"]) == 2
    assert "give --to FILE" in capsys.readouterr().err
