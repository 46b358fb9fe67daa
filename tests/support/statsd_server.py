"""A StatsD server: a real UDP socket that remembers what it received."""

import itertools
import socket
import threading
import time
from typing import Self


class StatsdServer:
    """Listens while it is entered."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # What comes while this process has no turn waits there, else it is lost.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])
        self._marks = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def named(self, name: str) -> list[str]:
        """Return what was sent of a metric until now: value, type and tags."""
        self._catch_up()
        return [
            line.removeprefix(name)
            for line in list(self.lines)
            if line.startswith((name + ":", name + ","))
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _catch_up(self) -> None:
        """Wait for a line of our own: a socket keeps the order, and what came before was read."""
        own = f"read.until.here:{next(self._marks)}|c"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while own not in self.lines:
                sender.sendto(own.encode(), ("127.0.0.1", self.port))
                time.sleep(0.01)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                self.lines += self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                continue
