"""
What needs somebody's attention, as one short list.

Owns what gets on the list and in what order; reads nothing.
Invariant: an empty list says that of everything it looks at nothing is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Literal, NamedTuple

from airflow_provider_azstack.console.pictures.words import clean, moment
from airflow_provider_azstack.repo.reports import Coverage
from airflow_provider_azstack.repo.verify.ledger import Verified
from airflow_provider_azstack.repo.verify.verification import DAYS
from airflow_provider_azstack.speed import counted

SHOWN = 5  # of what one line of the list is about
Weight = Literal["bad", "look", "note"]


class Detail(NamedTuple):
    """One of those that a line is about."""

    name: str
    text: str


class Item(NamedTuple):
    """One line of the list."""

    weight: Weight
    text: str
    details: tuple[Detail, ...] = ()
    more: int = 0


class Seen(NamedTuple):
    """What the list is made of."""

    now: datetime
    zone: tzinfo
    rows: Sequence[Coverage]
    verifications: Sequence[Verified]  # oldest first
    unreadable: Sequence[Detail]  # records, and why
    flagged: Sequence[Detail]  # points, and why
    held: Mapping[str, int]  # by VM: points on hold
    oldest: Mapping[str, datetime]  # by VM key: its oldest point
    max_age_hours: float = 0.0


def attention(seen: Seen) -> list[Item]:
    """Return the list, worst first."""
    order = ("bad", "look", "note")
    return sorted(_items(seen), key=lambda item: order.index(item.weight))


def late(rows: Sequence[Coverage], max_age_hours: float) -> list[Coverage]:
    """Return the VMs without a restore point that young; none where no age was given."""
    if not max_age_hours:
        return []
    return [row for row in rows if row.age_hours is None or row.age_hours > max_age_hours]


def _items(seen: Seen) -> Iterator[Item]:
    yield from _by_status(seen.rows)
    if seen.unreadable:
        what = counted(len(seen.unreadable), "record")
        yield _item("bad", f"{what} that cannot be read: verify the repository", seen.unreadable)
    yield from _damage(seen)
    yield from _stale(seen)
    if seen.flagged:
        text = f"{counted(len(seen.flagged), 'restore point')} flagged as suspicious"
        yield _item("look", text, seen.flagged)
    yield from _unverified(seen)
    if seen.held:
        text = f"{counted(sum(seen.held.values()), 'restore point')} on legal hold"
        held = [Detail(vm, counted(count, "point")) for vm, count in sorted(seen.held.items())]
        yield _item("note", text, held)


def _by_status(rows: Sequence[Coverage]) -> Iterator[Item]:
    for status, said in (
        ("missing", "without any restore point"),
        ("unprotected", "that the newest job could not protect"),
        ("failing", "whose newest job failed"),
    ):
        found = [Detail(clean(r.vm), clean(r.reason)) for r in rows if r.status == status]
        if found:
            yield _item("bad", f"{counted(len(found), 'VM')} {said}", found)


def _damage(seen: Seen) -> Iterator[Item]:
    last = seen.verifications[-1] if seen.verifications else None
    if last is None or last.outcome is None or not last.outcome.findings:
        return
    damaged = last.outcome.damaged_points
    found = (
        f"{counted(damaged, 'restore point')} damaged"
        if damaged
        else f"{counted(last.outcome.findings, 'damaged object')} that cost no restore point"
    )
    text = f"the last verification ({last.mode}, {moment(last.at, seen.zone)}) found {found}"
    yield Item("bad" if damaged else "look", text)


def _stale(seen: Seen) -> Iterator[Item]:
    found = [
        Detail(clean(row.vm), f"{row.age_hours:,.1f} hours old")
        for row in sorted(seen.rows, key=lambda row: -(row.age_hours or 0))
        if row.age_hours is not None and row.age_hours > seen.max_age_hours > 0
    ]
    if found:
        said = f"whose newest restore point is older than {seen.max_age_hours:g} hours"
        yield _item("bad", f"{counted(len(found), 'VM')} {said}", found)


def _unverified(seen: Seen) -> Iterator[Item]:
    """Name what daily verifications would have come to by now, the oldest first."""
    since = seen.now - timedelta(days=DAYS)
    never, long_ago = list[tuple[datetime, str]](), list[tuple[datetime, str]]()
    for row in seen.rows:
        oldest = seen.oldest.get(row.vm_key or row.vm_id)
        if row.read_since is not None and row.read_since < since:
            long_ago.append((row.read_since, clean(row.vm)))
        elif row.read_since is None and oldest is not None and oldest < since:
            never.append((oldest, clean(row.vm)))
    for found, what, since_when in (
        (never, f"never verified, though backed up for more than {DAYS} days", "oldest point"),
        (long_ago, f"not verified within {DAYS} days", "last read"),
    ):
        if found:
            told = [Detail(vm, f"{since_when} {moment(at, seen.zone)}") for at, vm in sorted(found)]
            yield _item("look", f"{counted(len(found), 'VM')} {what}", told)


def _item(weight: Weight, text: str, details: Sequence[Detail]) -> Item:
    return Item(weight, text, tuple(details[:SHOWN]), max(0, len(details) - SHOWN))
