"""A StatsD server: a real UDP socket that remembers what it received."""

import socket
import threading
from typing import Self


class StatsdServer:
    """Listens while it is entered."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def named(self, name: str) -> list[str]:
        """Return what was received of a metric: value, type and tags."""
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

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                self.lines += self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                continue
