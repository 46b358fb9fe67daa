"""
Options anywhere between the words of a command.

Owns nothing but that order, which ``argparse`` keeps to itself: it gives ``show VM --json POINT``
no point.
Invariant: a command whose words come before its options is read as ``argparse`` reads it.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any


class MixedParser(ArgumentParser):
    """A parser of one command; one that has commands of its own leaves mixing to those."""

    _is_mixing = False  # argparse mixes by calling the same method twice

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Namespace, list[str]]:
        """Return what the options and words say, and what is neither."""
        if self._is_mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False
