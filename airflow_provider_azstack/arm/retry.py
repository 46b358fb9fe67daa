"""
How long and how often we try again.

Owns back-off, jitter, ``Retry-After`` and the budget; knows neither ARM nor blobs.
Invariant: no two tries follow each other without a wait, and the waits of one request never add
up to more than its budget.
"""

import email.utils
import math
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from airflow_provider_azstack.errors import AzStackError

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
# Of a stack that was never heard of, by work that has not begun: most often its address is wrong.
CONTACT_SECONDS = 120.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
THROTTLING = frozenset({429, 503})


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """
    Read a ``Retry-After`` header: seconds or an HTTP date; None when there is nothing usable.

    :param now: seconds since the epoch, by the clock of whoever sent the header.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class Patience(NamedTuple):
    """What every request may spend on waiting, with the clock it waits by."""

    budget_seconds: float = 900.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    rng: random.Random = random.Random()  # noqa: S311 - jitter; one generator for all is meant

    def start(self) -> "Tries":
        """Start the tries of one request."""
        return Tries(self)


class Tries:
    """The tries of one request. Not shared between threads."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began = patience.clock()
        self._next_wait = FIRST_WAIT_SECONDS

    def wait(
        self,
        failure: AzStackError,
        at_least_seconds: float | None = None,
        *,
        within_seconds: float = math.inf,
    ) -> None:
        """
        Sleep before the next try; raise ``failure`` when the budget has no room for that.

        :param at_least_seconds: what the other side asked for. It is obeyed, with jitter on top
            so that readers that were refused together do not come back together.
        :param within_seconds: of the budget, since the first try.
        """
        jitter = self._patience.rng.uniform(0.5, 1.0)
        delay = self._next_wait * jitter
        if at_least_seconds is not None and at_least_seconds > delay:
            delay = at_least_seconds + FIRST_WAIT_SECONDS * jitter
        budget = min(self._patience.budget_seconds, within_seconds)
        if self._patience.clock() + delay > self._began + budget:
            raise failure
        self._next_wait = min(self._next_wait * 2, LONGEST_WAIT_SECONDS)
        self._patience.sleep(delay)
