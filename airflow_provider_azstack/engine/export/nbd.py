"""
A disk of a restore point as a read-only block device: a small NBD server.

Owns connections and the conversation; knows no repository.
Invariant: nothing that a client sends changes anything, and no client's mistake, death or silence
ends the server or another's connection.

Why not nbdkit: its Python plug-in is tied to the distribution's interpreter, not to the one that
this package is installed for, and a host that restores may not get packages any more. What a
read-only server needs of the protocol is this module and its words.
"""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, BaseServer, TCPServer, ThreadingMixIn
from typing import Any, cast

from airflow_provider_azstack.engine.cells import CellCache
from airflow_provider_azstack.engine.export import nbd_wire as wire
from airflow_provider_azstack.errors import AzStackError, ConfigurationError
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MAX_CLIENTS = 16
_HANDSHAKE_SECONDS = 30.0


class NbdServer(ThreadingMixIn, TCPServer):
    """Serves one disk, on a port of this host or at a socket's path."""

    allow_reuse_address = True

    def __init__(self, disk: CellCache, *, port: int = 0, path: Path | None = None) -> None:
        """
        :param port: on the loopback address only, the protocol has neither passwords nor secrecy.
        :param path: a Unix socket instead, which only this user may use.
        :raises ConfigurationError: the port or the path cannot be had.
        """
        self.disk = disk
        self.path = path
        self._bound: Path | None = None  # what is ours to remove; never what stood there before
        self.clients: set[socket.socket] = set()
        self.changing = threading.Lock()  # of that set
        if path:
            self.address_family = socket.AF_UNIX
        try:
            super().__init__(cast("Any", str(path) if path else (LOOPBACK, port)), _Connection)
        except (OSError, OverflowError) as error:  # the latter: no port has that number
            where = path or f"port {port}"
            why = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"{where} cannot be had: {why}") from None

    @property
    def uri(self) -> str:
        """What clients call this disk."""
        if self.path:
            return f"nbd+unix:///?socket={self.path.absolute()}"
        return f"nbd://{LOOPBACK}:{self.server_address[1]}"

    def server_bind(self) -> None:
        if self.path is None:
            super().server_bind()
            return
        # Bound before it listens, and narrowed in between: nobody else can connect at any time.
        self.socket.bind(str(self.path))
        self._bound = self.path
        self.path.chmod(0o600)

    def server_close(self) -> None:
        """End the connections, too: a client that keeps its own must not keep the server."""
        with self.changing:
            for client in self.clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        super().server_close()
        if self._bound:
            self._bound.unlink(missing_ok=True)

    @contextmanager
    def admitted(self, client: socket.socket) -> Iterator[bool]:
        """Tell whether there is room for a client, and count it meanwhile."""
        with self.changing:
            is_admitted = len(self.clients) < MAX_CLIENTS
            if is_admitted:
                self.clients.add(client)
        try:
            yield is_admitted
        finally:
            with self.changing:
                self.clients.discard(client)


class _Connection(BaseRequestHandler):
    """The conversation with one client."""

    request: socket.socket

    def __init__(self, request: Any, client_address: Any, server: BaseServer) -> None:
        self._server = cast("NbdServer", server)
        self._disk = self._server.disk
        self._is_structured = False
        self._has_context = False
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        with self._server.admitted(self.request) as is_admitted:
            if not is_admitted:
                log.warning("more than %d clients: one was turned away", MAX_CLIENTS)
                return
            try:
                self.request.settimeout(_HANDSHAKE_SECONDS)
                if self._negotiate():
                    self.request.settimeout(None)
                    self._transmit()
            except (wire.ProtocolError, OSError) as error:
                log.info("a client's connection ended: %s", error)

    def _negotiate(self) -> bool:
        """Talk options until the client wants the disk; False when it does not."""
        self.request.sendall(wire.GREETING)
        (flags,) = wire.CLIENT_FLAGS.unpack(self._receive(wire.CLIENT_FLAGS.size))
        if not flags & 1:
            raise wire.ProtocolError("the client knows only the oldest handshake")
        while True:
            option, length = wire.parse_option(self._receive(wire.OPTION.size))
            data = self._receive(length)
            if option == wire.EXPORT_NAME:
                padding = b"" if flags & 0b10 else bytes(124)
                self.request.sendall(wire.old_export(self._disk.size_bytes) + padding)
                return True
            for kind, answer in self._answers(option, data):
                self.request.sendall(wire.option_reply(option, kind, answer))
            if option in {wire.GO, wire.ABORT}:
                return option == wire.GO

    def _answers(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        if option in {wire.GO, wire.INFO}:  # there is one disk, whatever it is called
            return [
                (wire.EXPORT_INFO, wire.export_info(self._disk.size_bytes)),
                (wire.EXPORT_INFO, wire.block_size_info(BLOCK_SIZE)),
                (wire.ACK, b""),
            ]
        if option == wire.LIST:
            return [(wire.SERVER, bytes(4)), (wire.ACK, b"")]
        if option == wire.STRUCTURED_REPLY:
            self._is_structured = True
            return [(wire.ACK, b"")]
        if option in {wire.LIST_META_CONTEXT, wire.SET_META_CONTEXT}:
            return self._contexts(option, data)
        return [(wire.ACK if option == wire.ABORT else wire.UNSUPPORTED, b"")]

    def _contexts(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        is_listing = option == wire.LIST_META_CONTEXT
        is_wanted = wire.wants_allocation(data, listing=is_listing)
        if not is_listing:
            if not self._is_structured:
                return [(wire.INVALID, b"structured replies first")]
            self._has_context = is_wanted
        return [*([(wire.META_CONTEXT, wire.context_info())] if is_wanted else []), (wire.ACK, b"")]

    def _transmit(self) -> None:
        while True:
            request = wire.parse_request(self._receive(wire.REQUEST.size))
            if request.command == wire.DISCONNECT:
                return
            if request.command in wire.WRITING:
                self._refuse_write(request)
            else:
                self._answer(request)

    def _refuse_write(self, request: wire.Request) -> None:
        if request.command == 1:  # its data follow: without reading them we would lose the thread
            if request.length > wire.MAX_REQUEST_BYTES:
                raise wire.ProtocolError("a write beyond any size")
            self._receive(request.length)
        self._send_error(request, wire.EPERM, "the disk is read-only")

    def _answer(self, request: wire.Request) -> None:
        try:
            parts = self._parts(request)
        except ValueError as error:
            self._send_error(request, wire.EINVAL, str(error))
        except AzStackError as error:
            log.warning("%s", error)
            self._send_error(request, wire.EIO, str(error))
        else:
            for part in parts:
                self.request.sendall(part)

    def _parts(self, request: wire.Request) -> list[bytes]:
        if request.command == wire.FLUSH:
            return [wire.simple_reply(request.cookie)]
        if request.command == wire.READ:
            return self._read(request)
        if request.command == wire.BLOCK_STATUS and self._has_context:
            return [wire.status_chunk(request.cookie, self._status(request))]
        raise ValueError(f"command {request.command} is not known")

    def _read(self, request: wire.Request) -> list[bytes]:
        if request.length > wire.MAX_REQUEST_BYTES:
            raise ValueError(f"a read of {request.length} bytes is beyond any size")
        data = self._disk.read(request.offset, request.length)
        if self._is_structured:
            head = wire.data_chunk(request.cookie, request.offset, len(data))
        else:
            head = wire.simple_reply(request.cookie)
        return [head, data]

    def _status(self, request: wire.Request) -> list[tuple[int, int]]:
        """Return where the disk holds data and where holes; fewer bytes than asked for will do."""
        position, end = request.offset, request.offset + request.length
        if not request.length or end > self._disk.size_bytes:
            raise ValueError(f"{request.length} bytes at {position} are not on the disk")
        found: list[tuple[int, int]] = []
        for extent in self._disk.extents(position, request.length):
            if extent.offset > position:
                found.append((extent.offset - position, wire.HOLE_AND_ZERO))
            found.append((extent.length, 0))
            position = extent.offset + extent.length
            if len(found) > wire.MAX_EXTENTS:
                return found
        if position < end:
            found.append((end - position, wire.HOLE_AND_ZERO))
        return found[:1] if request.wants_one_extent else found

    def _send_error(self, request: wire.Request, error: int, message: str) -> None:
        if self._is_structured:
            self.request.sendall(wire.error_chunk(request.cookie, error, message))
        else:
            self.request.sendall(wire.simple_reply(request.cookie, error))

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self.request.recv(min(length - len(data), 2**20))
            if not part:
                raise wire.ProtocolError("the client went away")
            data += part
        return bytes(data)
