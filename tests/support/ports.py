"""Ports at which nobody listens: held, because what is let go may be taken by any other process."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

DISCARD = 9  # for an address that this machine does not have


@contextmanager
def closed_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Lend a port that refuses connections for as long as it is lent."""
    with ExitStack() as stack:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            held = stack.enter_context(socket.socket(family))
            held.bind((address, 0))
            port = int(held.getsockname()[1])
        except OSError:
            port = DISCARD
        yield port
