"""
What running work tells: into the log, into Airflow's task state store, and as metrics.

Owns how often each of them is told; knows nothing of the work.
Invariant: nothing is ever read back from here, and whatever happens here the work goes on: a store
that is absent (before Airflow 3.3), slow or failing costs lines, never a backup.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_azstack.engine.summary import Table
from airflow_provider_azstack.operators import metrics
from airflow_provider_azstack.speed import Told

SUMMARY_KEY = "summary"
STATE_SECONDS = 7.0
# A store that takes long is told less often: at most this share of our time goes there.
_LARGEST_SHARE = 0.05
_LONGEST_PAUSE_SECONDS = 600.0


class Watch:
    """
    Takes lines. Call it from any thread; the state store is only told from the main one.

    :param kind: what the work is: ``backup``, ``restore``...; the metrics' names begin with it.
    :param tags: of the metrics; few values each.
    """

    def __init__(
        self,
        operator: BaseOperator,
        context: Context,
        kind: str,
        tags: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log = operator.log
        self._kind = kind
        self._store: Any = context.get("task_state_store")
        self._stream = metrics.Stream(kind, tags)
        self._clock = clock
        self._now = now
        self._pause = STATE_SECONDS
        self._next = clock() + STATE_SECONDS
        self._kept: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        """Take a line; one with numbers goes further than the log."""
        self._log.info("%s", line)
        if isinstance(line, Told):
            with self._lock:
                self._stream.tell(line)
            # Airflow's way to the store is one socket; a signal must find the main thread at it.
            if self._store is not None and threading.current_thread() is threading.main_thread():
                self._keep(line)

    def _keep(self, told: Told) -> None:
        is_last = told.key in self._kept and told.facts.get("eta_seconds") == 0
        began = self._clock()
        if began < self._next and not is_last:
            return
        try:
            value = {"kind": self._kind, "line": str(told), "at": self._now().isoformat()}
            self._store.set(told.key, {**told.facts, **value})
        except Exception as error:  # noqa: BLE001 - see the invariant
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            self._log.warning("the task state store was not told: %s", type(error).__name__)
        else:
            self._kept.add(told.key)
            self._pause = STATE_SECONDS
        took = self._clock() - began
        self._next = self._clock() + max(self._pause, took / _LARGEST_SHARE)


def summarise(
    operator: BaseOperator, context: Context, kind: str, table: Table, tags: Mapping[str, str]
) -> None:
    """Put the table of a run into the log, into XCom ``summary``, and its sums into metrics."""
    operator.log.info("%s", table.text())
    context["ti"].xcom_push(key=SUMMARY_KEY, value=table.plain())
    metrics.table(kind, table, tags)
