"""Memory of a backup, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tier2

SCRIPT = """
import sys
from pathlib import Path
from support.disks import VM, CHEAP, PASSPHRASE, back_up
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

GIB, MIB, PAGE = 1024**3, 1024**2, 4096

class Endless:
    '''1023 GiB: a megabyte of text in each, and one region in which every other page is there.'''
    size_bytes = 1023 * GIB
    days = 0
    def footer(self):
        return b""
    def allocated(self, offset, length):
        found = [Extent(o, MIB) for o in range(offset, offset + length, GIB) if o]
        if offset == 0:
            found[:0] = [Extent(o, PAGE) for o in range(0, 256 * MIB, 2 * PAGE)]
        return found
    def changed(self, offset, length):
        if offset:
            return []
        start = self.days * 16 * PAGE
        return [Extent(o + start, PAGE) for o in range(0, 256 * MIB, 32 * PAGE)]
    def read_into(self, offset, buffer):
        for at in range(offset, offset + len(buffer), PAGE):
            holds = at % (2 * PAGE) == 0 if at < 256 * MIB else at >= GIB and at % GIB < MIB
            page = b"%016d" % at * 256 if holds else bytes(PAGE)
            buffer[at - offset : at - offset + PAGE] = page

disk = Endless()
repository = Repository.create(LocalStore(Path(sys.argv[1])), PASSPHRASE, kdf=CHEAP)[0]
session = repository.open_session("memory")
image = back_up(disk, session, readers=8)
for disk.days in range(2):
    image = back_up(disk, session, image, readers=8, rng=lambda: __import__("random").Random(1))
session.close()
repository.close()
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's VmHWM")
def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """A terabyte, fragmented in places, under 300 MiB at the peak with 8 readers."""
    directory = tmp_path / "repository"
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory)],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert int(done.stdout) / 1024 < 300
