"""The crew: all tasks once, the first error out, nobody left behind."""

import threading
from collections.abc import Iterator

import pytest

from airflow_provider_azstack.engine.crew import Crew
from airflow_provider_azstack.errors import Cancelled

pytestmark = pytest.mark.tier1

PATIENCE = 60.0  # only a test that fails waits that long


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if thread.name.startswith("backup-")]


@pytest.mark.parametrize("threads", [1, 8])
def test_every_task_is_done_once_and_added_ones_first(threads: int) -> None:
    """Tasks that make tasks, several levels deep: all done, whatever the number of threads."""
    done: list[tuple[int, ...]] = []
    crew: Crew[tuple[int, ...]] = Crew((number,) for number in range(20))

    def work(tasks: Iterator[tuple[int, ...]]) -> None:
        for task in tasks:
            if len(task) < 3:
                crew.add((*task, child) for child in range(3))
            done.append(task)

    crew.run(work, threads)
    assert len(done) == len(set(done)) == 20 * (1 + 3 + 9)
    if threads == 1:
        assert [task for task in done if task[0] == 0] == done[:13]


def test_the_first_error_is_raised_and_stops_the_others() -> None:
    """However many tasks wait, none is begun after an error."""
    begun: list[int] = []
    crew = Crew(iter(range(10_000)))

    def work(tasks: Iterator[int]) -> None:
        for task in tasks:
            begun.append(task)
            if task == 10:
                raise OSError("the first")
            if task > 10:
                assert crew._over.wait(PATIENCE)  # the first error is known
                raise OSError("a later one")

    with pytest.raises(OSError, match="the first"):
        crew.run(work, 4)
    assert len(begun) < 20


def test_an_error_of_the_plan_is_raised_too() -> None:
    """What makes the tasks may fail like a task."""

    def plan() -> Iterator[int]:
        yield 1
        raise OSError("no page list")

    with pytest.raises(OSError, match="no page list"):
        Crew(plan()).run(lambda tasks: [None for _ in tasks] and None, 3)


def test_an_error_in_the_callers_glance_stops_all() -> None:
    """A session that was lost is noticed by the caller's thread."""
    crew = Crew(iter(int, 1))

    def lost() -> None:
        raise OSError("session gone")

    with pytest.raises(OSError, match="session gone"):
        crew.run(lambda tasks: [None for _ in tasks] and None, 3, glance=lost)


def test_cancel_ends_an_endless_source() -> None:
    """Told to stop, it stops."""
    cancel = threading.Event()

    def work(tasks: Iterator[int]) -> None:
        for task in tasks:
            if task == 100:
                cancel.set()

    def count() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    with pytest.raises(Cancelled):
        Crew(count()).run(work, 2, cancel=cancel)
