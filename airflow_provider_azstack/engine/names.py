"""
The names and tags of what we create on a stack, and how to tell them again.

Owns both directions: a snapshot's name is derived here and recognised here. Knows no requests.
Invariant: what carries our name pattern and all of our tags was made by us, for a known repository
and session; anything else is never touched.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from airflow_provider_azstack.model import Job

PREFIX = "azstack"
_NAME = re.compile(
    rf"{PREFIX}-[0-9a-f]{{8}}-(os|data-[0-9]{{1,3}})-([0-9a-f]{{10}}-[0-9a-f]{{10}})"
)

RUN = "azstack-backup-run"
VM = "azstack-backup-vm"
POINT = "azstack-backup-point"  # the attempt it was taken by; it begins as the point's set does
SESSION = "azstack-backup-session"
REPOSITORY = "azstack-backup-repository"


_DIGITS = 10  # of the tail of a set's name


class Owner(NamedTuple):
    """What the tags of a snapshot say."""

    repository: str
    session: str
    run: str
    vm_key: str
    set_id: str


def new_attempt_id(session: str, random: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """
    Return a name for a new attempt to snapshot a VM, which tells the session it belongs to.

    Unique, not derived: a second copy of the same task makes snapshots of its own, and what was cut
    short is never filled up with younger ones.
    """
    return f"{session_mark(session)}-{random().hex[:10]}"


def set_id(session: str, number: int) -> str:
    """
    Return the name of the ``number``-th snapshot set of a VM in a session.

    Derived: of several attempts at the same time only one can be recorded under it.
    """
    return f"{session_mark(session)}-{number:010d}"


def set_number(set_id: str) -> int:
    """Return which of the sets of its session it is; 0 for what is no set's name."""
    tail = set_id.rpartition("-")[2]
    return int(tail) if len(tail) == _DIGITS and tail.isdecimal() else 0


def session_mark(session: str) -> str:
    """Return the beginning of the ids of all snapshot sets of a session."""
    return hashlib.sha256(session.encode()).hexdigest()[:10]


def is_of_session(set_id: str, session: str) -> bool:
    """Tell whether a snapshot set was taken under ``session``."""
    return set_id.startswith(session_mark(session) + "-")


def snapshot_name(vm_key: str, disk_key: str, set_id: str) -> str:
    """Return the name of a managed snapshot; at most 80 characters."""
    return f"{PREFIX}-{vm_key[:8]}-{disk_key}-{set_id}"


def point_id(taken_at: datetime, set_id: str) -> str:
    """Return the restore point's id of a snapshot set: always the same one; ids sort by time."""
    return f"{taken_at.astimezone(UTC):%Y%m%dt%H%M%S.%fz}-{set_id}"


def tags(job: Job, repository: str, vm_key: str, set_id: str) -> dict[str, str]:
    """Return the tags of a managed snapshot."""
    return {
        RUN: job.run,
        VM: vm_key,
        POINT: set_id,
        SESSION: job.session,
        REPOSITORY: repository,
    }


def blob_metadata(job: Job, repository: str, vm_key: str, set_id: str) -> dict[str, str]:
    """Return the metadata of a blob snapshot: names there are identifiers, without hyphens."""
    return {_key(k): v for k, v in tags(job, repository, vm_key, set_id).items()}


def owner_of_snapshot(name: str, found: Mapping[str, str]) -> Owner | None:
    """Return whose managed snapshot this is, or None when it is not ours beyond doubt."""
    match = _NAME.fullmatch(name)
    owner = _owner(found)
    if match is None or owner is None:
        return None
    named_vm = name.split("-")[1]
    return owner if match[2] == owner.set_id and owner.vm_key.startswith(named_vm) else None


def owner_of_blob_snapshot(metadata: Mapping[str, str]) -> Owner | None:
    """Return whose blob snapshot this is, or None when its metadata is not ours."""
    lowered = {name.lower(): value for name, value in metadata.items()}
    return _owner(
        {tag: lowered.get(_key(tag), "") for tag in (RUN, VM, POINT, SESSION, REPOSITORY)}
    )


def _owner(found: Mapping[str, str]) -> Owner | None:
    owner = Owner(
        repository=found.get(REPOSITORY, ""),
        session=found.get(SESSION, ""),
        run=found.get(RUN, ""),
        vm_key=found.get(VM, ""),
        set_id=found.get(POINT, ""),
    )
    return owner if all(owner) and is_of_session(owner.set_id, owner.session) else None


def _key(tag: str) -> str:
    return tag.replace("-", "_")
