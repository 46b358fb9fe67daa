"""Damage to what a store holds: bits that flip.

Never a fixed byte in another's place: sealed bytes are random, and one in 256 is that byte already.
"""

from collections.abc import Iterable
from pathlib import Path


def flipped(data: bytes, *places: int) -> bytes:
    """Return ``data`` with a bit changed in the byte at each place."""
    damaged = bytearray(data)
    for at in places:
        damaged[at] ^= 1
    return bytes(damaged)


def flip_files(paths: Iterable[Path], *places: int) -> None:
    """Change files of a local store, which are read-only."""
    for path in paths:
        path.chmod(0o600)
        path.write_bytes(flipped(path.read_bytes(), *places))


def packs_of(store: Path) -> list[Path]:
    """Return the files of all packs of a local store."""
    return [path for path in (store / "packs").rglob("*") if path.is_file()]
