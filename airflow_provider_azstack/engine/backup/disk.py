"""
The backup of one disk: from a source's ranges to an image in the repository.

Owns the pipeline, its threads and its order; knows neither Azure nor the repository's format.
Invariant: the image is put only after every block that it refers to is durable, and its bytes are
the source's, however the changes were known. A backup that fails puts no image.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from airflow_provider_azstack.engine.backup.changes import DiskSource
from airflow_provider_azstack.engine.backup.pipeline import HELPERS, Pipeline
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.progress import Progress, Tally
from airflow_provider_azstack.model import ChangesKnown, Compression, DiskPart, DiskSnapshot, Image
from airflow_provider_azstack.repo.images.runs import REGION_BYTES
from airflow_provider_azstack.repo.sessions import Session

PROGRESS_SECONDS = 3.0
SESSION_CHECK_SECONDS = 30.0
READERS = 8
IN_FLIGHT = READERS * (1 + HELPERS)  # requests of a stream that the stack has before it, at most


def _utc_now() -> datetime:
    return datetime.now(UTC)


def back_up_disk(
    source: DiskSource,
    session: Session,
    *,
    name: str,
    run: str,
    vm_key: str,
    set_id: str,
    snapshot: DiskSnapshot,
    host: str = "",
    part: DiskPart | None = None,
    previous: Image | None,
    sibling: Image | None = None,
    trust: ChangesKnown = "difference",
    compression: Compression = "standard",
    readers: int = READERS,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    pace: Pace | None = None,
    rng: Callable[[], Random] = Random,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], datetime] = _utc_now,
) -> Image:
    """
    Store a disk's content and return its image, which is then in the repository.

    :param name: the image's object name.
    :param host: the backup host that this is.
    :param part: all that is looked at and stored; None: the whole disk.
    :param previous: the image that the source's ``changed`` refers to; None stores everything.
    :param sibling: without ``previous``: an image of a disk that may be like this one.
    :param trust: the best change source to believe. After ``ChangesLied`` the caller must say
        "everything" for this disk until an image of it succeeded.
    :param compression: of the blocks that are new.
    :param readers: each costs 4.25 MiB of memory, and has one range in flight that fills it, or
        ``1 + HELPERS`` smaller ones.
    :param pace: holds back what is read; None: as fast as it goes.
    :raises ChangesLied: a range said to be unchanged since ``previous`` had changed.
    :raises Cancelled: ``cancel`` was set.
    """
    started = clock()
    with session.writer(compression) as writer:
        pipeline = Pipeline(
            source,
            writer,
            session.reader(),
            previous,
            trust=trust,
            rng=rng(),
            pace=pace,
            part=part,
            sibling=sibling,
        )
        glance = _Glance(pipeline.tally, session.check, progress, started, clock)
        pipeline.run(readers, cancel, glance)
        session.check()
        writer.flush()  # W5: blocks and their index are durable before the image is
        seen = pipeline.tally.look(clock() - started)
        image = Image(
            name=name,
            run=run,
            vm_key=vm_key,
            set_id=set_id,
            snapshot=snapshot,
            size_bytes=source.size_bytes,
            region_bytes=REGION_BYTES,
            regions=tuple(pipeline.regions),
            footer=source.footer(),
            changes_known=pipeline.known,
            based_on=pipeline.based_on,
            changed_bytes=pipeline.changed_bytes,
            read_bytes=seen.read_bytes,
            stored_bytes=seen.stored_bytes,
            seconds=seen.seconds,
            ended_at=wall_clock(),
            part=part,
            host=host,
        )
        session.put_image(image)
    if progress:
        progress(seen)
    return image


class _Glance:
    """What the caller's thread does while the others work."""

    def __init__(
        self,
        tally: Tally,
        check_session: Callable[[], None],
        progress: Callable[[Progress], None] | None,
        started: float,
        clock: Callable[[], float],
    ) -> None:
        self._tally = tally
        self._check_session = check_session
        self._progress = progress
        self._started = self._reported = self._checked = started
        self._clock = clock

    def __call__(self) -> None:
        now = self._clock()
        if self._progress and now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self._progress(self._tally.look(now - self._started))
        if now - self._checked >= SESSION_CHECK_SECONDS:
            self._checked = now
            self._check_session()  # a stream that was fenced stops at once
