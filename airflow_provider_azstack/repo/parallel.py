"""
One function for many things, several at once.

Owns the threads, how many a store's distance calls for, and how far they run ahead; knows nothing
of what they do.
Invariant: results come in order, and never more than a bounded number of them wait.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from airflow_provider_azstack.store.base import Store

T = TypeVar("T")
R = TypeVar("R")

# Reads of something small that are under way to a store that is far away: 300 ms of latency, and
# still a hundred a second.
FAR = 32


def at_once(store: Store, near: int = 1) -> int:
    """
    Return by how many threads to read small things.

    :param near: where there is nothing to wait for, and threads take each other's processor.
    """
    return near if store.is_near else max(FAR, near)


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], threads: int, *, ahead_of_each: int = 8
) -> Generator[R, None, None]:
    """
    Yield what ``function`` returns for each item, in order, a bounded number ahead.

    :param ahead_of_each: how many results may wait for each thread: few, where they are large.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    ahead: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, "parallel")
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > ahead_of_each * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
