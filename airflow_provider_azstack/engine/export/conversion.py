"""
A disk of a restore point as qcow2 or VHDX, which qemu-img writes.

Owns the errand of qemu-img: it reads the disk from a block device that only it is shown, so there
is no copy in between, and holes are not read. Knows nothing of those formats.
Invariant: as for every export, the final name is that of a whole disk or of what was there before.
"""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from airflow_provider_azstack.engine.cells import CellCache
from airflow_provider_azstack.engine.export.disk import Advance, Exported, Losses
from airflow_provider_azstack.engine.export.nbd import NbdServer
from airflow_provider_azstack.engine.export.new_file import explained, partial_name, replaced_file
from airflow_provider_azstack.errors import AzStackError, ConfigurationError, StoreError, StoreFull
from airflow_provider_azstack.repo.images.reader import ImageReader, OnDamage

Converted = Literal["qcow2", "vhdx"]
_FULL = "No space left on device"


def convert(
    reader: ImageReader,
    form: Converted,
    target: Path,
    *,
    overwrite: bool = False,
    salvage: bool = False,
    advance: Advance = lambda _position: None,
    which: Callable[[str], str | None] = shutil.which,
) -> Exported:
    """
    Write the disk in one of qemu-img's formats.

    :raises ConfigurationError: qemu-img is not installed.
    """
    program = which("qemu-img")
    if program is None:
        raise ConfigurationError(
            f"{form} is written by qemu-img, which is not installed (Debian: qemu-utils, Red Hat: "
            "qemu-img): install it, or export raw or vhd"
        )
    losses = Losses()
    with explained(target, lambda: 0), replaced_file(target, overwrite=overwrite):
        partial = partial_name(target)
        disk = _Watched(reader, advance, losses.note if salvage else None)
        with disk, _served(disk) as uri:
            command = [program, "convert", "-f", "raw", "-O", form, uri, str(partial)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise disk.error or _failed(done.stderr, target)
        size_bytes, stored = partial.stat().st_size, partial.stat().st_blocks * 512
    return Exported(size_bytes, stored, losses.ranges())


class _Watched(CellCache):
    """Tells how far it was read, and remembers the error that qemu-img cannot tell."""

    def __init__(self, reader: ImageReader, advance: Advance, on_damage: OnDamage | None) -> None:
        super().__init__(reader, on_damage=on_damage)
        self.error: AzStackError | None = None
        self._advance = advance

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = super().read(offset, length)
        except AzStackError as error:
            self.error = self.error or error
            raise
        self._advance(offset + length)
        return data


@contextmanager
def _served(disk: CellCache) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="azstack-") as place,
        NbdServer(disk, path=Path(place) / "disk") as server,
    ):
        thread = threading.Thread(target=server.serve_forever, name="nbd")
        thread.start()
        try:
            yield server.uri
        finally:
            server.shutdown()
            thread.join()


def _failed(complaint: str, target: Path) -> StoreError:
    reason = " ".join(complaint.split())[-500:]
    if _FULL in complaint:
        return StoreFull(f"{target}: no room; qemu-img says: {reason}")
    return StoreError(f"{target}: qemu-img failed: {reason}")
