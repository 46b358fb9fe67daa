"""
Every exception this package raises on purpose.

::

    AzStackError
    ├── ConfigurationError       the user must change something               never retried
    │   ├── ConnectionMissing    no such Airflow connection; retried: Airflow may be down
    │   ├── InvalidName          a name, id or path failed validation
    │   └── UnsupportedStack     an api-version or capability is missing
    ├── AccessDenied             401/403 that renewal did not cure            never retried
    │   └── ObjectHeld           an object lock keeps it; carries until       never retried
    ├── SourceError
    │   ├── SourceGone           VM, disk or snapshot no longer exists
    │   ├── SourceChanged        size, unique id or ETag differs from the manifest
    │   ├── SourceBusy           another export is active                     retried
    │   └── ChangesUnknown       no difference, or no page list, to be had    falls back
    ├── TransientError           retried by Airflow, after our own retries
    │   ├── Throttled            carries retry_after_seconds
    │   ├── Unreachable
    │   └── SessionLost          we were fenced; nothing was committed
    ├── StoreError
    │   ├── ObjectNotFound
    │   │   └── PointForgotten   by somebody, since an earlier try published it
    │   ├── ObjectExists         put-if-absent lost the race
    │   ├── StoreFull            never retried; says how much is needed
    │   └── ShortRead
    ├── IntegrityError           bytes are not what they must be              one re-read, fatal
    │   ├── WrongKey
    │   ├── Tampered
    │   ├── MissingBlock         names image, offset, pack
    │   ├── DamageFound          a verification ended, and not well           never retried
    │   └── ChangesLied          said unchanged, but it changed               next run reads all
    ├── IncompatibleRepository   format or feature newer than we are          never retried
    ├── Refused                  we could have destroyed something, and did not   never retried
    ├── StreamsFailed            VMs of a workload failed; retried unless no retry can help any
    ├── WindowEnded              the backup window left no time for a VM      never retried
    ├── IncompleteJob            a compound job ended without every VM        never retried
    └── Cancelled                we were told to stop, and did

Each message says what, where and what to do next, in one line, and holds no URL query string.
"""

from datetime import datetime


class AzStackError(Exception):
    """Base of everything raised on purpose; ``never_retry`` tells Airflow's retries to stop."""

    never_retry = False


class ConfigurationError(AzStackError):
    """The user must change something before another try can succeed."""

    never_retry = True


class ConnectionMissing(ConfigurationError):
    """Airflow knows no connection of that id; while it is out of reach it says the same of any."""

    never_retry = False


class InvalidName(ConfigurationError):
    """A name, id or path failed validation."""


class UnsupportedStack(ConfigurationError):
    """The stack lacks an api-version or a capability."""


class AccessDenied(AzStackError):
    """The stack or the store said 401 or 403, and renewal did not cure it."""

    never_retry = True


class ObjectHeld(AccessDenied):
    """A lock or retention of the store keeps an object; deleting it will succeed later."""

    def __init__(self, message: str, until: datetime | None = None) -> None:
        super().__init__(message)
        self.until = until


class SourceError(AzStackError):
    """What should be read is not as the manifest says."""


class SourceGone(SourceError):
    """A VM, disk or snapshot no longer exists."""


class SourceChanged(SourceError):
    """Size, unique id or ETag differs from what the manifest recorded."""


class SourceBusy(SourceError):
    """Another export of the disk is active; a later try may succeed."""


class ChangesUnknown(SourceError):
    """The source cannot tell what changed, or what is allocated; something coarser can be read."""


class TransientError(AzStackError):
    """Our own retries are used up; Airflow's may still succeed."""


class Throttled(TransientError):
    """The stack asked for patience for longer than the budget allows."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unreachable(TransientError):
    """
    No connection, no answer in time, or only 5xx answers until the budget was used up.

    :param is_silent: nothing came back, or not all of it; whoever is there said nothing.
    :param is_unknown: whoever knows names says that there is none such.
    """

    def __init__(self, message: str, *, is_silent: bool = False, is_unknown: bool = False) -> None:
        super().__init__(message)
        self.is_silent = is_silent
        self.is_unknown = is_unknown


class SessionLost(TransientError):
    """Our session was fenced; nothing was committed under it."""


class StoreError(AzStackError):
    """An object store or directory failed."""


class ObjectNotFound(StoreError):
    """No object has that name."""


class PointForgotten(ObjectNotFound):
    """Somebody forgot a restore point since an earlier try published it: it does not come back."""


class ObjectExists(StoreError):
    """Put-if-absent lost: an object of that name is already there."""


class StoreFull(StoreError):
    """The store has no room; the message says how many bytes were needed."""

    never_retry = True


class ShortRead(StoreError):
    """A read returned fewer bytes than the object has."""


class IntegrityError(AzStackError):
    """Bytes are not what they must be."""


class WrongKey(IntegrityError):
    """No key of the repository opens with that passphrase."""

    never_retry = True


class Tampered(IntegrityError):
    """Authentication failed: the object was altered, swapped or damaged."""


class MissingBlock(IntegrityError):
    """A block that an image refers to is in no pack."""


class DamageFound(IntegrityError):
    """A verification found that restore points cannot be restored as a whole, or objects broken."""

    never_retry = True


class ChangesLied(IntegrityError):
    """
    A range that the source said was unchanged had changed.

    Earlier images built on its word may be wrong as well: read everything next time.
    """

    def __init__(self, message: str, offsets: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.offsets = offsets


class IncompatibleRepository(AzStackError):
    """The repository's format or a mandatory feature is newer than this version."""

    never_retry = True


class Refused(AzStackError):
    """Going on could have destroyed something."""

    never_retry = True


class StreamsFailed(AzStackError):
    """
    VMs of a workload failed; the others are done.

    :param failures: VM key -> its name and error.
    """

    def __init__(self, failures: dict[str, tuple[str, Exception]], count: int) -> None:
        errors = {key: error for key, (_, error) in failures.items()}
        self.failures = errors
        self.reasons = {key: f"{type(error).__name__}: {error}" for key, error in errors.items()}
        self.never_retry = all(getattr(e, "never_retry", False) for e in errors.values())
        each = "; ".join(f"{name}: {self.reasons[key]}" for key, (name, _) in failures.items())
        super().__init__(f"{len(failures)} of {count} VMs failed: {each}")


class WindowEnded(AzStackError):
    """The backup window ended before a VM was begun, or done; the next job takes it first."""

    never_retry = True


class IncompleteJob(AzStackError):
    """A compound job ended without a restore point for every VM of its manifests."""

    never_retry = True


class Cancelled(AzStackError):
    """We were told to stop; what was begun is undone or harmless."""
