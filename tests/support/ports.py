"""Ports at which nobody listens: held, because what is let go may be taken by any other process."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def closed_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Lend a port that refuses connections for as long as it is lent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as held:
        held.bind((address, 0))
        yield int(held.getsockname()[1])
