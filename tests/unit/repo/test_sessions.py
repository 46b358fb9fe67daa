"""Sessions: who is fenced commits nothing, and who claims a VM has it alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from support.repositories import (
    MOMENT,
    VM_KEY,
    a_point,
    a_set,
    an_image,
    back_up,
    new_repository,
    noise,
    reopen,
    restore,
    store_blocks,
)
from support.stores import CrashingStore, MemoryStore

from airflow_provider_azstack.errors import (
    ObjectExists,
    PointForgotten,
    Refused,
    SessionLost,
    SourceBusy,
)
from airflow_provider_azstack.model import Job, JobRecord, Manifest, RestorePoint
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.points.holds import add_hold
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Buffer, Store
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1


@pytest.fixture
def repository() -> Repository:
    return new_repository()


@pytest.fixture
def session(repository: Repository) -> Session:
    return repository.open_session("backup", run="run-1", host="host-a")


class FencedWhilePublishing(StoreWrapper):
    """A collector fences everyone just when the point is put."""

    def put(self, name: str, data: Buffer) -> None:  # type: ignore[override]
        super().put(name, data)
        if name.startswith("points/"):
            for info in list(self.inner.list("sessions/")):
                self.inner.delete(info.name)


def test_a_whole_run_in_its_write_order() -> None:
    """W1 to W7: the session first, blocks before index before image before point, session last."""
    inner = MemoryStore()
    repository = new_repository(inner)
    store = CrashingStore(inner)
    point = back_up(reopen(repository, store), [noise(1), noise(2)])
    kinds = [(what, name.partition("/")[0]) for what, name in store.log]
    assert kinds == [
        ("put", "sessions"),
        ("put", "claims"),
        ("put", "sets"),
        ("put", "packs"),
        ("put", "index"),
        ("put", "images"),
        ("put", "points"),
        ("delete", "claims"),
        ("delete", "sessions"),
    ]
    assert restore(repository, point) == [noise(1), noise(2)]


def test_a_fenced_session_can_do_nothing(repository: Repository, session: Session) -> None:
    image = an_image(store_blocks(session, [noise(1)]))
    repository.fence(session.id)
    repository.fence(session.id)
    for act in (
        session.check,
        lambda: repository.join_session(session.id),
        lambda: reopen(repository).join_session(session.id),
        lambda: session.claim(VM_KEY),
        lambda: session.publish(a_point(image, session)),
        lambda: Session(repository, session.id).writer(),
    ):
        with pytest.raises(SessionLost, match=session.id):
            act()
    assert repository.points() == []
    session.close()


def test_a_point_is_withdrawn_when_its_session_went_meanwhile(repository: Repository) -> None:
    """W6, F-H9: whoever deletes a session causes a failed backup and never a lost one."""
    store = FencedWhilePublishing(repository.store)
    session = reopen(repository, store).open_session("backup")
    image = an_image(store_blocks(session, [noise(1)]))
    with pytest.raises(SessionLost, match="was withdrawn"):
        session.publish(a_point(image, session))
    assert repository.points() == []


def test_a_point_that_cannot_be_withdrawn_is_said_to_be_there(repository: Repository) -> None:
    """With credentials that may not delete, the task still fails, and says what is left."""
    store = AppendOnlyStore(FencedWhilePublishing(repository.store))
    session = reopen(repository, store).open_session("backup")
    image = an_image(store_blocks(session, [noise(1)]))
    with pytest.raises(SessionLost, match="could not be withdrawn"):
        session.publish(a_point(image, session))


def test_publishing_again_returns_what_is_there(repository: Repository, session: Session) -> None:
    """F-C10: a retry after the point was published succeeds and changes nothing."""
    image = an_image(store_blocks(session, [noise(1)]))
    first = session.publish(a_point(image, session))
    later = a_point(image, session, published_at=MOMENT + timedelta(hours=1))
    assert reopen(repository).join_session(session.id).publish(later) == first
    assert repository.points(VM_KEY) == [first]


class WhilePublishing(StoreWrapper):
    """Somebody else does something just before, or just after, a point is put."""

    def __init__(
        self,
        inner: Store,
        *,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(inner)
        self._before, self._after = before, after

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        if not name.startswith("points/"):
            return super().put(name, data)
        self._before()
        super().put(name, data)
        self._after()
        return None


def forget_all(repository: Repository) -> None:
    keys = [(point.vm.key, point.id) for point in repository.points()]
    forget(reopen(repository), keys, confirm=repository.id)


def test_what_was_forgotten_is_not_published_again(
    repository: Repository, session: Session
) -> None:
    """F-K15: by a retry, or by another copy of the task that slept meanwhile."""
    point = session.publish(a_point(an_image(store_blocks(session, [noise(1)])), session))
    forget_all(repository)
    store = CrashingStore(repository.store)
    other = reopen(repository, store).join_session(session.id)
    for again in (session, other, session):
        with pytest.raises(PointForgotten, match="p-1 was forgotten"):
            again.publish(point)
    assert store.log == [], "it was not even there for a moment"
    session.close()
    assert not list(repository.store.list("claims/"))


def test_what_is_forgotten_while_it_is_published_again_is_withdrawn(
    repository: Repository, session: Session
) -> None:
    """F-K15: another copy of the task had looked before it was forgotten."""
    point = session.publish(a_point(an_image(store_blocks(session, [noise(1)])), session))

    def publish_again(store: Store) -> RestorePoint:
        meanwhile = WhilePublishing(store, before=lambda: forget_all(repository))
        return reopen(repository, meanwhile).join_session(session.id).publish(point)

    with pytest.raises(PointForgotten, match="was withdrawn"):
        publish_again(repository.store)
    assert repository.points() == []
    census.put_census(repository, [f"{VM_KEY}/p-1"])
    assert census.listed_points(repository) == set(), "a collector that saw it does not miss it"


def test_what_came_back_and_cannot_be_withdrawn_is_said_to_be_there(
    repository: Repository, session: Session
) -> None:
    """With credentials that may not delete, it still counts as forgotten."""
    point = session.publish(a_point(an_image(store_blocks(session, [noise(1)])), session))
    store = WhilePublishing(
        AppendOnlyStore(repository.store), before=lambda: forget_all(repository)
    )
    with pytest.raises(PointForgotten, match="could not be withdrawn"):
        reopen(repository, store).join_session(session.id).publish(point)


def test_what_came_back_and_was_put_on_hold_at_once_stays(
    repository: Repository, session: Session
) -> None:
    """F-K12: whoever took it for there keeps it, though he was told that it may go."""
    point = session.publish(a_point(an_image(store_blocks(session, [noise(1)])), session))

    def hold() -> None:
        with pytest.raises(Refused, match="the hold stands"):
            add_hold(reopen(repository), VM_KEY, "p-1")

    store = WhilePublishing(repository.store, before=lambda: forget_all(repository), after=hold)
    assert reopen(repository, store).join_session(session.id).publish(point) == point
    assert repository.points() == [point]


def test_another_point_never_takes_a_taken_id(repository: Repository, session: Session) -> None:
    image = an_image(store_blocks(session, [noise(1)]))
    first = session.publish(a_point(image, session))
    with pytest.raises(ObjectExists, match="another restore point"):
        session.publish(msgspec.structs.replace(first, policy="weekly"))
    assert repository.points(VM_KEY) == [first]


def test_sets_and_images_are_put_once(repository: Repository, session: Session) -> None:
    """The same again is fine: a retry does that. Another one under the name is not."""
    for _ in range(2):
        session.put_set(a_set())
        session.put_image(an_image([b"i" * 32]))
    with pytest.raises(ObjectExists):
        session.put_image(an_image([b"j" * 32]))
    assert list(repository.sets("run-1")) == list(repository.sets("run-1", VM_KEY)) == [a_set()]
    assert list(repository.images("run-1", VM_KEY)) == [an_image([b"i" * 32])]
    assert list(repository.images("run-1", VM_KEY, "os")) == [an_image([b"i" * 32])]
    assert list(repository.images("run-1", VM_KEY, "data-0")) == []
    assert list(repository.images("run-1", "0" * 36)) == []


def test_one_run_has_a_vm(repository: Repository, session: Session) -> None:
    """F-K11: a second run hears of the first; any process of the first may claim again."""
    other = repository.open_session("backup", run="run-2")
    session.claim(VM_KEY)
    reopen(repository).join_session(session.id).claim(VM_KEY)
    with pytest.raises(SourceBusy, match=session.id):
        other.claim(VM_KEY)
    session.claim(VM_KEY)
    session.release(VM_KEY)
    other.claim(VM_KEY)


def test_the_claim_of_a_dead_session_is_void(repository: Repository, session: Session) -> None:
    session.claim(VM_KEY)
    repository.fence(session.id)
    other = repository.open_session("backup")
    other.claim(VM_KEY)
    other.close()
    assert not list(repository.store.list("claims/"))


def test_never_two_claims_at_once(repository: Repository) -> None:
    """Of many that come at once at most one gets the VM."""
    sessions = [repository.open_session("backup") for _ in range(8)]

    def claim(session: Session) -> bool:
        try:
            session.claim(VM_KEY)
        except SourceBusy:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, sessions)) <= 1


def test_closing_gives_everything_up_and_may_be_repeated(
    repository: Repository, session: Session
) -> None:
    session.claim(VM_KEY)
    session.writer().add(b"never flushed")
    session.close()
    session.close()
    reopen(repository)
    assert repository.sessions() == {}
    assert not list(repository.store.list("claims/"))


def test_notes_are_for_the_processes_of_one_session_and_the_first_counts(
    repository: Repository, session: Session
) -> None:
    """Sealed, told from those of other sessions and VMs, and gone with the session."""
    other = repository.open_session("backup")
    assert session.leave_note(VM_KEY, "turn-1", b"first")
    assert not session.leave_note(VM_KEY, "turn-1", b"second")
    assert other.leave_note(VM_KEY, "turn-1", b"another session's")
    same = reopen(repository).join_session(session.id)
    same.leave_note(VM_KEY, "turn-2", b"!")
    assert session.note(VM_KEY, "turn-1") == b"first"
    assert session.note(VM_KEY, "turn-3") is None
    assert session.noted(VM_KEY) == ["turn-1", "turn-2"]
    assert same.noted(VM_KEY, "turn-2") == ["turn-2"]
    assert session.noted("0" * 36) == []
    assert all(
        b"first" not in repository.store.get(info.name) for info in repository.store.list("claims/")
    )
    session.close()
    assert other.noted(VM_KEY) == ["turn-1"]
    other.close()
    assert not list(repository.store.list("claims/"))


def test_a_note_keeps_other_runs_off_the_vm_like_a_claim(
    repository: Repository, session: Session
) -> None:
    session.leave_note(VM_KEY, "turn-1", b"here")
    other = repository.open_session("backup")
    with pytest.raises(SourceBusy):
        other.claim(VM_KEY)
    repository.fence(session.id)
    other.claim(VM_KEY)
    other.close()
    assert not list(repository.store.list("claims/"))


def test_sessions_say_who_they_are(repository: Repository, session: Session) -> None:
    [(name, info)] = repository.sessions().items()
    assert name == session.id
    assert info is not None
    assert (info.purpose, info.run, info.host) == ("backup", "run-1", "host-a")


def test_an_unreadable_session_is_a_session(repository: Repository, session: Session) -> None:
    """F-S5: its name is the protocol; what it says is for people."""
    assert isinstance(repository.store, MemoryStore)
    repository.store.objects[f"sessions/{session.id}"] = b"\0junk"
    assert repository.sessions() == {session.id: None}
    session.check()


def a_record(status: str = "failed") -> JobRecord:
    return JobRecord(
        job=Job(run="run-1", session="s", policy="nightly", stack="stack.example"),
        status=status,  # type: ignore[arg-type]
        started_at=MOMENT,
        ended_at=MOMENT,
        vms=(),
    )


def test_the_newest_record_of_a_job_counts(repository: Repository, session: Session) -> None:
    assert repository.job("run-1") is None
    for status in ["failed"] * 11 + ["done"]:
        session.put_job(a_record(status))
    assert repository.job("run-1") == a_record("done")
    assert repository.jobs() == [a_record("done")]


def test_a_manifest_reads_back_by_its_name(repository: Repository, session: Session) -> None:
    manifest = Manifest(job=a_record().job, host="host-a", workloads=())
    names = {session.put_manifest(manifest) for _ in range(2)}
    assert len(names) == 2
    assert all(reopen(repository).manifest(name) == manifest for name in names)
