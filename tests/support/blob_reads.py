"""A snapshot of a disk behind a signed URL, and readers of it whose waiting takes no time."""

import random

from support.stacks import granting, snapshot_id
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import EmulatedDisk, Emulator

RANGE = 64 * 1024


class Setup:
    """A managed disk with noise in it, its snapshot, and readers of that."""

    def __init__(self, emulator: Emulator, compute: Compute) -> None:
        self.emulator = emulator
        self.faults = emulator.faults
        self.compute = compute
        self.clock = VirtualClock()
        self.disk: EmulatedDisk = emulator.add_vm("vm", "group").disks[0]
        self.content = random.Random(1).randbytes(4 * RANGE)
        self.disk.write(0, self.content)
        self.first = self.snapshot("first")

    def snapshot(self, name: str) -> str:
        path = snapshot_id(self.disk.source, name)
        self.compute.create_snapshot(path, self.disk.source, self.emulator.location, {})
        return path

    def reader(self, snapshot: str = "", **more: object) -> BlobDisk:
        given = {
            "clock": self.clock,
            "sleep": self.clock.sleep,
            "rng": random.Random(7),
            "size_bytes": self.disk.size_bytes,
            **more,
        }
        grant = granting(self.compute, snapshot or self.first)
        return BlobDisk(grant, **given)  # type: ignore[arg-type]

    def reads(self) -> int:
        log = self.emulator.requests
        return sum(r.method == "GET" and r.ms_version != "" for r in log)


def read(disk: BlobDisk, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xee" * length)
    disk.read_into(offset, memoryview(buffer))
    return bytes(buffer)
