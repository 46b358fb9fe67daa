"""
The ledger of verifications: ``verified/<id>``, what was checked when, and how it ended.

Owns those records and their merging; knows not how anything is checked.
Invariant: records are only added. Of two that speak of one pack the later counts, and one that
claims to be of the future counts as never: a clock that was wrong once hides no pack.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

from airflow_provider_azstack.errors import AccessDenied, ObjectNotFound, StoreError, Tampered
from airflow_provider_azstack.model import Moment, Record, Slug, Text, VmKey
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import PackText, Records

log = logging.getLogger(__name__)

PREFIX = "verified/"
Mode = Literal["structure", "cycle", "full"]


class VerifiedPoint(Record, frozen=True, kw_only=True):
    """A VM's newest restore point of which every byte was read and found good."""

    vm_key: VmKey
    vm: Text
    point: Slug
    taken_at: Moment
    read_since: Moment  # no part of it was last read before this


class Outcome(Record, frozen=True, kw_only=True):
    """How a verification ended."""

    points: int
    damaged_points: int
    findings: int
    verified: tuple[VerifiedPoint, ...] = ()


class Verified(Record, frozen=True, kw_only=True):
    """``verified/<id>``: packs that were read since the record before, or the end of it all."""

    verification: PackText  # its id: 128 random bits, as a pack's
    mode: Mode
    started_at: Moment
    at: Moment
    packs: tuple[PackText, ...] = ()
    bytes: int = 0
    outcome: Outcome | None = None  # only in a verification's last record


class Entry(NamedTuple):
    """A record of the ledger and its object name."""

    name: str
    record: Verified


def put(records: Records, record: Verified) -> str:
    """Add a record and return its object name."""
    name = PREFIX + records.keys.random(ID_BYTES).hex()
    records.put(name, record)
    return name


def entries(records: Records, now: datetime) -> Iterator[Entry]:
    """
    Yield the readable records that are not of the future, in no order.

    One that is damaged only makes packs look as if they were not verified: that costs reading.
    """
    names = [info.name for info in records.store.list(PREFIX)]
    with contextlib.closing(
        in_parallel(partial(_read, records), names, at_once(records.store), ahead_of_each=2)
    ) as found:
        yield from (entry for entry in found if entry is not None and entry.record.at <= now)


def outcomes(records: Records, now: datetime) -> list[Verified]:
    """Return the last records of the verifications that came to their end, oldest first."""
    ended = [entry.record for entry in entries(records, now) if entry.record.outcome is not None]
    return sorted(ended, key=lambda record: record.at)


def verified_points(records: Records, now: datetime) -> dict[str, VerifiedPoint]:
    """
    Return, by VM key, the newest restore point that is known to be good.

    Each verification says it of all VMs, so the last one has the last word.
    """
    return last_word(outcomes(records, now))


def last_word(ended: Sequence[Verified]) -> dict[str, VerifiedPoint]:
    """Return, by VM key, what the last of the verifications that came to their end found good."""
    last = ended[-1].outcome if ended else None
    return {point.vm_key: point for point in last.verified} if last else {}


def unfinished_full(records: Records, now: datetime) -> Verified | None:
    """Return a record of the last full verification, if that did not come to its end."""
    full = [entry.record for entry in entries(records, now) if entry.record.mode == "full"]
    newest = max(full, key=lambda record: record.started_at, default=None)
    is_ended = any(r.outcome for r in full if newest and r.verification == newest.verification)
    return None if is_ended else newest


def forget_superseded(records: Records, now: datetime) -> int:
    """
    Remove records of which every pack was read again later, where we may delete; return how many.

    The last record of every mode stays, and those that other records do not make superfluous.
    """
    found = sorted(entries(records, now), key=lambda entry: (entry.record.at, entry.name))
    covered: set[str] = set()
    ends: set[str] = set()
    superseded = []
    for name, record in reversed(found):
        is_last_end = record.outcome is not None and record.mode not in ends
        if record.outcome is not None:
            ends.add(record.mode)
        if not is_last_end and covered.issuperset(record.packs):
            superseded.append(name)
        covered.update(record.packs)
    return sum(_delete(records, name) for name in superseded)


def _read(records: Records, name: str) -> Entry | None:
    try:
        return Entry(name, records.get(name, Verified))
    except ObjectNotFound:
        return None
    except Tampered as error:
        log.warning("%s; what it said was verified will be read again", error)
        return None


def _delete(records: Records, name: str) -> bool:
    with contextlib.suppress(AccessDenied, StoreError):  # append-only hosts may not: it just stays
        records.store.delete(name)
        return True
    return False
