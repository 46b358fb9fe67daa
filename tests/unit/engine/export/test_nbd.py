"""The NBD server, asked by real clients and by wrong ones."""

import hashlib
import json
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Self

import pytest
from support.disks import PAGE, SparseDisk, back_up, open_session
from support.points import digest_of
from support.stores import MemoryStore

from airflow_provider_azstack.engine.cells import CellCache
from airflow_provider_azstack.engine.export import nbd_wire as wire
from airflow_provider_azstack.engine.export.nbd import MAX_CLIENTS, NbdServer
from airflow_provider_azstack.errors import ConfigurationError, MissingBlock
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.reader import ImageReader

MIB = 1024**2


def tool(name: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [path, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=250,
            check=check,
        )

    return run


def some_disk(size: int = 70 * MIB) -> SparseDisk:
    disk = SparseDisk(size)
    noise = Random(1)
    disk.write(0, noise.randbytes(9 * MIB + 5))
    disk.write(40 * MIB, noise.randbytes(PAGE))
    disk.write(size - PAGE, noise.randbytes(PAGE))
    return disk


class CountingReader(ImageReader):
    """Counts the reads of cells."""

    reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(offset, length)


@contextmanager
def serving(cache: CellCache, **options: object) -> Iterator[NbdServer]:
    with NbdServer(cache, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served() -> Iterator[tuple[SparseDisk, CountingReader, NbdServer]]:
    with open_session(MemoryStore()) as session:
        disk = some_disk()
        reader = CountingReader(back_up(disk, session), session.reader())
        with CellCache(reader) as cache, serving(cache) as server:
            yield disk, reader, server


Served = tuple[SparseDisk, CountingReader, NbdServer]


@pytest.mark.tier2
@pytest.mark.parametrize("client", ["qemu-img", "nbdcopy"])
def test_a_real_client_copies_the_disk(served: Served, tmp_path: Path, client: str) -> None:
    """Bit-exact; nbdcopy asks over several connections at once and for holes."""
    disk, _, server = served
    target = tmp_path / "copy"
    run = tool(client)
    if client == "qemu-img":
        run("convert", "-f", "raw", "-O", "raw", server.uri, target)
    else:
        target.touch()
        run("--connections=4", server.uri, target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest_of(disk)
    assert target.stat().st_blocks * 512 < 20 * MIB


@pytest.mark.tier2
def test_a_client_sees_size_holes_and_that_it_may_not_write(served: Served) -> None:
    _, _, server = served
    info = json.loads(tool("nbdinfo")("--json", server.uri).stdout)["exports"][0]
    assert info["export-size"] == 70 * MIB
    assert info["is_read_only"]
    assert info["can_multi_conn"]
    extents = json.loads(tool("nbdinfo")("--json", "--map", server.uri).stdout)
    data = [extent["offset"] for extent in extents if extent["type"] == 0]
    assert data == [0, 40 * MIB, 69 * MIB]
    assert sum(extent["length"] for extent in extents) == 70 * MIB


@pytest.mark.tier2
def test_a_terabyte_of_holes_is_not_read(tmp_path: Path) -> None:
    """A client that asks where data are reads those only, through a Unix socket."""
    convert = tool("qemu-img")
    with open_session(MemoryStore()) as session:
        disk = SparseDisk(1024 * 1024 * MIB)
        disk.write(700_000 * MIB, Random(3).randbytes(MIB))
        reader = CountingReader(back_up(disk, session), session.reader())
        path = tmp_path / "socket"
        with CellCache(reader) as cache, serving(cache, path=path) as server:
            assert path.stat().st_mode & 0o777 == 0o600
            convert("convert", "-f", "raw", "-O", "qcow2", server.uri, tmp_path / "out.qcow2")
        assert reader.reads < 20
        assert not path.exists()
    check = tool("qemu-img")("check", tmp_path / "out.qcow2")
    assert "No errors" in check.stdout


class Client:
    """A client as simple as the protocol allows."""

    def __init__(self, server: NbdServer) -> None:
        self.socket = socket.create_connection(server.server_address, timeout=120)
        assert self.receive(18) == wire.GREETING
        self.socket.sendall(struct.pack(">I", 3))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.socket.sendall(struct.pack(">8sII", b"IHAVEOPT", option, len(data)) + data)
        answers = []
        while not answers or (answers[-1][0] != wire.ACK and answers[-1][0] < 2**31):
            _, _, kind, length = struct.unpack(">QIII", self.receive(20))
            answers.append((kind, self.receive(length)))
        return answers

    def start(self) -> int:
        """Take the old way in; return the size."""
        self.socket.sendall(struct.pack(">8sII", b"IHAVEOPT", wire.EXPORT_NAME, 0))
        size, flags = struct.unpack(">QH", self.receive(10))
        assert flags & 2
        return size

    def ask(self, command: int, offset: int, length: int, data: bytes = b"") -> bytes | int:
        """Return the data, or the number of the error."""
        head = struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length)
        self.socket.sendall(head + data)
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert (magic, cookie) == (0x67446698, 7)
        return error or self.receive(length if command == wire.READ else 0)


@pytest.mark.tier1
def test_old_clients_and_odd_requests(served: Served) -> None:
    """What is not on the disk, too long, unknown or a write is an error; the connection goes on."""
    disk, _, server = served
    with Client(server) as client:
        assert client.option(99) == [(wire.UNSUPPORTED, b"")]
        assert client.option(wire.LIST)[0] == (wire.SERVER, bytes(4))
        assert client.option(wire.SET_META_CONTEXT, bytes(8))[0][0] == wire.INVALID
        assert client.start() == disk.size_bytes
        assert client.ask(wire.READ, disk.size_bytes - 1, 2) == wire.EINVAL
        assert client.ask(wire.READ, 2**63, 1) == wire.EINVAL
        assert client.ask(wire.READ, 0, wire.MAX_REQUEST_BYTES + 1) == wire.EINVAL
        assert client.ask(wire.BLOCK_STATUS, 0, 1) == wire.EINVAL
        assert client.ask(1, 0, 3, b"abc") == wire.EPERM
        assert client.ask(4, 0, 3) == wire.EPERM
        assert client.ask(wire.FLUSH, 0, 0) == b""
        assert client.ask(wire.READ, MIB - 3, 7) == disk.read(MIB - 3, 7)


@pytest.mark.tier1
def test_clients_at_once_get_their_own_bytes(served: Served) -> None:
    disk, _, server = served

    def work(seed: int) -> None:
        noise = Random(seed)
        with Client(server) as client:
            size = client.start()
            for _ in range(25):
                offset = noise.choice([0, 9 * MIB, 40 * MIB]) + noise.randrange(MIB)
                length = min(noise.randrange(1, 2 * MIB), size - offset)
                assert client.ask(wire.READ, offset, length) == disk.read(offset, length)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


@pytest.mark.tier1
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 3, struct.pack(">8sII", b"IHAVEOPT", 7, 2**31), b""]
)
def test_who_speaks_something_else_disturbs_nobody(served: Served, garbage: bytes) -> None:
    disk, _, server = served
    with Client(server) as client:
        client.start()
        with Client(server) as wrong, pytest.raises((EOFError, OSError)):
            wrong.socket.sendall(garbage)
            wrong.socket.shutdown(socket.SHUT_WR)
            wrong.receive(1)
        assert client.ask(wire.READ, 5, 5) == disk.read(5, 5)


@pytest.mark.tier1
def test_more_clients_than_allowed_are_turned_away(served: Served) -> None:
    """So memory is bounded; those that are there are served."""
    _, _, server = served
    clients = [Client(server) for _ in range(MAX_CLIENTS)]
    try:
        with socket.create_connection(server.server_address, timeout=120) as one_more:
            assert one_more.recv(1) == b""
        assert clients[0].start() == 70 * MIB
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.tier1
def test_a_port_or_path_that_is_taken_is_said(served: Served, tmp_path: Path) -> None:
    _, _, server = served
    with pytest.raises(ConfigurationError, match=r"port \d+ cannot be had"):
        NbdServer(server.disk, port=server.server_address[1])
    with pytest.raises(ConfigurationError, match="port 99999 cannot be had"):
        NbdServer(server.disk, port=99999)
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(ConfigurationError, match="taken cannot be had"):
        NbdServer(server.disk, path=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "precious", "what stood there is not ours to remove"
    with NbdServer(server.disk, path=tmp_path / "socket"):
        with pytest.raises(ConfigurationError, match="socket cannot be had"):
            NbdServer(server.disk, path=tmp_path / "socket")
        assert (tmp_path / "socket").exists(), "another server's clients still find it"
    assert not (tmp_path / "socket").exists()


@pytest.mark.tier1
def test_a_damaged_block_is_an_input_output_error_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F-R4: the client gets EIO for that range, and goes on elsewhere."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = some_disk()
        first = back_up(disk, session)
        store.lose(store.names("packs/"))
        disk.freeze()
        disk.write(50 * MIB, Random(9).randbytes(MIB))
        reader = ImageReader(back_up(disk, session, first, trust="difference"), session.reader())
        with CellCache(reader) as cache, serving(cache) as server, Client(server) as client:
            client.start()
            assert client.ask(wire.READ, 50 * MIB, 100) == disk.read(50 * MIB, 100)
            assert client.ask(wire.READ, 0, 100) == wire.EIO
            assert "disk offset 0" in caplog.text
            assert client.ask(wire.READ, 50 * MIB, 100) == disk.read(50 * MIB, 100)


@pytest.mark.tier1
def test_the_cache_is_bounded_reads_ahead_and_reads_once() -> None:
    """Small reads in order decode each cell once; a cell that failed is asked for again."""
    with open_session(MemoryStore()) as session:
        disk = some_disk()
        reader = CountingReader(back_up(disk, session), session.reader())
        with CellCache(reader, cells=8) as cache:
            for offset in range(0, 20 * MIB, MIB // 4):
                assert cache.read(offset, MIB // 4) == disk.read(offset, MIB // 4)
                assert len(cache._cells) <= 8
        assert reader.reads <= 25


@pytest.mark.tier1
def test_the_cache_salvages_when_asked() -> None:
    """F-R4: zeros for what is lost, told once for each reading; all else as it was."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = SparseDisk(4 * MIB)
        disk.write(MIB, Random(2).randbytes(MIB))
        image = back_up(disk, session)
        reader = ImageReader(image, session.reader())
        list(reader.extents())
        store.lose(store.names("packs/"))
        lost: list[Extent] = []
        with CellCache(reader) as cache, pytest.raises(MissingBlock):
            cache.read(MIB, 1)
        with CellCache(reader, on_damage=lambda extent, _: lost.append(extent)) as cache:
            assert cache.read(0, 4 * MIB) == bytes(4 * MIB)
        assert lost == [Extent(MIB, MIB, zero=True)]
