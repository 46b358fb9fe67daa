"""
What a collection did, or would do.

Owns the report's form; knows not how it came about.
Invariant: everything that went, would go, or could not go is a row with its reason.
"""

from typing import Literal, NamedTuple

Action = Literal["fence", "condemn", "repack", "delete", "held", "keep", "wait", "ignore"]


class Row(NamedTuple):
    """One thing that a collection did or would do, and why."""

    action: Action
    name: str
    size_bytes: int
    because: str


class Report(NamedTuple):
    """What a collection did, or in a dry run would do."""

    dry_run: bool
    points: int
    packs: int
    pack_bytes: int
    rows: tuple[Row, ...]

    def of(self, *actions: Action) -> list[Row]:
        """Return the rows of some actions."""
        return [row for row in self.rows if row.action in actions]

    @property
    def freed_bytes(self) -> int:
        """How much was, or would be, deleted now."""
        return sum(row.size_bytes for row in self.of("delete"))
