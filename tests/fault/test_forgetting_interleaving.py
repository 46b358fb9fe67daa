"""
Forgetting beside whoever publishes the same point again, and whoever holds it, in every order.

A point was published; another process of the same run does that again. It finds it there, or that
it was forgotten. A point that is reported as forgotten stays so, one that is held stays.
"""

from functools import cache
from itertools import permutations

import pytest
from support.repositories import (
    PASSPHRASE,
    VM_KEY,
    a_point,
    an_image,
    back_up,
    new_repository,
    noise,
    store_blocks,
)
from support.stepping import ALL, calls_of, in_turns, two_switches
from support.stores import MemoryStore

from airflow_provider_azstack.errors import (
    ObjectNotFound,
    PointForgotten,
    Refused,
    SessionLost,
)
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.points.forget import Forgotten, forget
from airflow_provider_azstack.repo.points.holds import add_hold
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.base import Store

pytestmark = pytest.mark.tier2

KEY = (VM_KEY, "p-1")
SHARED = ("sessions/", "points/", "claims/", "forgotten/", "holds/")


@cache
def start() -> tuple[dict[str, bytes], RestorePoint]:
    """A point of a run that is over, and one of a run that is not."""
    repository = new_repository()
    back_up(repository, [noise(1)], "earlier")
    session = repository.open_session("backup", run="run-1")
    session.claim(VM_KEY)
    image = an_image(store_blocks(session, [noise(2)]), "run-1", session.id)
    session.put_image(image)
    point = session.publish(a_point(image, session))
    assert isinstance(repository.store, MemoryStore)
    return repository.store.objects, point


def fresh() -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(start()[0])
    return store


def opened(store: Store) -> Repository:
    return Repository.open(store, PASSPHRASE)


def publisher(store: Store) -> RestorePoint:
    point = start()[1]
    return opened(store).join_session(point.session).publish(point)


def forgetter(store: Store) -> Forgotten:
    return forget(opened(store), [KEY])


def holder(store: Store) -> None:
    add_hold(opened(store), *KEY)


def closer(store: Store) -> None:
    opened(store).join_session(start()[1].session).close()


def is_there(store: MemoryStore) -> bool:
    return f"points/{VM_KEY}/p-1" in store.objects


def forgotten() -> MemoryStore:
    store = fresh()
    forgetter(store)
    return store


def publisher_calls() -> int:
    """Return how many it makes at most: it puts the point, and takes it back."""
    store = fresh()
    del store.objects[f"points/{VM_KEY}/p-1"]
    return len(calls_of(store, publisher, SHARED)) + 3


def test_what_was_forgotten_does_not_come_back_by_a_second_copy_of_a_task() -> None:
    """F-K15: whichever is first at each step."""
    outcomes = set()
    for stretches in two_switches(publisher_calls(), len(calls_of(fresh(), forgetter, SHARED))):
        store = fresh()
        published, gone = in_turns(store, [publisher, forgetter], stretches, SHARED)
        assert isinstance(gone, Forgotten), (gone, stretches)
        assert isinstance(published, RestorePoint | PointForgotten), (published, stretches)
        assert not is_there(store), stretches
        census.listed_points(opened(store))
        outcomes.add(str(published) if isinstance(published, PointForgotten) else "")
    assert len(outcomes) == 3, "there, gone before, gone while it was put"


def test_nor_while_its_session_ends() -> None:
    """F-K15: what tells of it goes with the session, but not before it."""
    calls = len(calls_of(forgotten(), closer, SHARED))
    outcomes = set()
    for stretches in two_switches(publisher_calls(), calls):
        store = forgotten()
        published, closed = in_turns(store, [publisher, closer], stretches, SHARED)
        assert closed is None or isinstance(closed, SessionLost), (closed, stretches)
        assert isinstance(published, PointForgotten | SessionLost), (published, stretches)
        assert not is_there(store), stretches
        census.listed_points(opened(store))
        outcomes.add(type(published))
    assert outcomes == {PointForgotten, SessionLost}


def test_a_hold_stands_whoever_publishes_and_forgets() -> None:
    """F-K12, F-K15: a point is there when it was held without a word of warning."""
    counts = [publisher_calls(), *(len(calls_of(fresh(), w, SHARED)) for w in (forgetter, holder))]
    outcomes = set()
    for first, second, third in permutations(range(3)):
        for i in range(0, counts[first] + 1, 2):
            for j in range(counts[second] + 1):
                stretches = [(first, i), (second, j), (third, ALL), (first, ALL), (second, ALL)]
                store = fresh()
                works = [publisher, forgetter, holder]
                published, gone, held = in_turns(store, works, stretches, SHARED)
                assert isinstance(published, RestorePoint | PointForgotten), stretches
                assert isinstance(gone, Forgotten | Refused), (gone, stretches)
                assert isinstance(held, Refused | ObjectNotFound | None), (held, stretches)
                if held is None:
                    assert is_there(store), stretches
                outcomes.add((type(published), type(gone), type(held)))
    assert len(outcomes) > 4
