"""
How fast one emulator serves 4 MiB ranges of a snapshot over plain HTTP.

The server is one process, the client another that does nothing but ``recv_into``. Prints GiB/s for
each number of connections and exits with 1 when the best is below ``--at-least``.
"""

import argparse
import http.client
import multiprocessing
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from emulated import snapshot_url

from airflow_provider_azstack.emulator import DiskSpec, Emulator

RANGE = 4 << 20
GIB = 1 << 30


def read_all(url: str, size_bytes: int, connections: int) -> float:
    """Read the disk once over so many connections; return the seconds it took."""
    parts = urlsplit(url)
    offsets = iter(range(0, size_bytes, RANGE))
    lock = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
        buffer = memoryview(bytearray(RANGE))
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                connection.close()
                return
            headers = {"x-ms-range": f"bytes={offset}-{offset + RANGE - 1}"}
            connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
            response = connection.getresponse()
            at = 0
            while at < RANGE:
                got = response.readinto(buffer[at:])
                if response.status != 206 or not got:
                    raise SystemExit(f"a range was answered {response.status}, {at} bytes")
                at += got
            response.read()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def client(pipe: Connection, url: str, size_bytes: int, counts: list[int], rounds: int) -> None:
    """Measure in a process of its own; send the results through ``pipe``."""
    for count in counts:
        pipe.send((count, min(read_all(url, size_bytes, count) for _ in range(rounds))))
    pipe.send(None)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-least", type=float, default=1.0, help="GiB/s")
    arguments = parser.parse_args()
    size_bytes = arguments.size_mib << 20
    best = 0.0
    with (
        tempfile.TemporaryDirectory() as root,
        Emulator(Path(root), tls=False) as emulator,
    ):
        vm = emulator.add_vm("bench", "bench", [DiskSpec(size_bytes=size_bytes)])
        noise = bytes(range(256)) * (RANGE // 256)
        for offset in range(0, size_bytes, RANGE):
            vm.disks[0].write(offset, noise)
        url = snapshot_url(emulator, vm.disks[0])
        ours, theirs = multiprocessing.Pipe()
        reader = multiprocessing.get_context("spawn").Process(
            target=client, args=(theirs, url, size_bytes, arguments.connections, arguments.rounds)
        )
        cpu = time.process_time()
        reader.start()
        while result := ours.recv():
            count, seconds = result
            speed = size_bytes / GIB / seconds
            best = max(best, speed)
            print(f"{count} connections: {speed:.2f} GiB/s")
        reader.join()
        total = size_bytes / GIB * arguments.rounds * len(arguments.connections)
        print(f"server: {(time.process_time() - cpu) / total:.3f} CPU-seconds per GiB")
    print(f"best {best:.2f} GiB/s, wanted {arguments.at_least:.2f}")
    return 0 if best >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
