"""
What all operators share: connections, errors, and the run's name.

Owns the border between Airflow and the engine; knows nothing of backups.
Invariant: what crosses a task's border is plain JSON of ids and sizes, checked on arrival; an
error that another try cannot cure ends the task's retries.
"""

import functools
import gc
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, Context

from airflow_provider_azstack.errors import (
    AzStackError,
    Cancelled,
    ConfigurationError,
    SessionLost,
)
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.hooks.stack import AzureStackHook
from airflow_provider_azstack.model import Job

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.sessions import Session

T = TypeVar("T")
DRY_RUN = "dry_run"  # of the params of runs that delete, if they have such a one
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_BEFORE_A_REASON = re.compile(r"(?<=[:;]) (?=\([1-9][0-9]*\) )")


def stops_retries(execute: Callable[..., T]) -> Callable[..., T]:
    """Turn errors that another try cannot cure into Airflow's own word for that."""

    @functools.wraps(execute)
    def run(self: BaseOperator, context: Context) -> T:
        try:
            return execute(self, context)
        except AzStackError as error:
            if isinstance(error, SessionLost):
                # Each task of a run has the same session: one that is gone stays gone.
                raise AirflowFailException(f"SessionLost: {error}: trigger a new run") from None
            if error.never_retry:
                said = _BEFORE_A_REASON.sub("\n", str(error))
                raise AirflowFailException(f"{type(error).__name__}: {said}") from None
            raise

    return run


def numbered(reasons: Sequence[str]) -> str:
    """
    Return several reasons as they stand in an error, which is one line.

    A task that fails says each on a line of its own: a page of a log hides the end of a long one.
    """
    if len(reasons) == 1:
        return reasons[0]
    return "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))


def about(operator: type[BaseOperator]) -> str:
    """Return what an operator does, for whoever looks at a task of it that is red."""
    return str(operator.__doc__).strip().partition("\n\n")[0]


class AzStackOperator(BaseOperator):
    """
    Base of all operators.

    :param stack_conn_id: connection of type ``azure_stack``.
    :param repository_conn_id: connection of type ``azstack_repository``.
    """

    ui_color = "#e8f1fb"

    def __init__(self, *, stack_conn_id: str, repository_conn_id: str, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", about(type(self)))
        super().__init__(**kwargs)
        self.stack_conn_id = stack_conn_id
        self.repository_conn_id = repository_conn_id
        # Only while a stoppable part runs: operators are copied, and events cannot be.
        self._cancel: threading.Event | None = None

    def pre_execute(self, context: Context) -> None:
        """
        Have the garbage collector pass over what is loaded already: it stays until the task ends.

        Airflow's 200,000 objects take 0.1 s to look through, each time that ours are many.
        """
        super().pre_execute(context)
        gc.freeze()

    @contextmanager
    def stoppable(self) -> Iterator[threading.Event]:
        """Run a part that a signal may stop; give the event that says so to its threads."""
        self._cancel = threading.Event()
        try:
            yield self._cancel
        finally:
            self._cancel = None

    def on_kill(self) -> None:
        """
        Stop what is running. There are five seconds: clean-up belongs to the teardown.

        :raises Cancelled: this runs in a signal handler, and returning would go on with the task.
        """
        if self._cancel:
            self._cancel.set()
            raise Cancelled("the task was told to stop")

    def open_stack(self, *, mid_work: bool = True) -> "Stack":
        """
        Return the stack; use it in a ``with``.

        :param mid_work: outages are waited for; else a stack that never answers is said soon.
        """
        return AzureStackHook(self.stack_conn_id).get_conn(mid_work=mid_work)

    def open_repository(self) -> "Repository":
        """Return the repository."""
        return RepositoryHook(self.repository_conn_id).get_conn()

    def fence_left_over(self, repository: "Repository", purpose: str) -> None:
        """
        End the sessions of this purpose that earlier runs or tries of this DAG left.

        A run that was killed with its clean-up leaves its session: with that its claims on VMs,
        and a prune waits for it for ever. While a DAG has one active run at a time, no other run
        of it can be alive; were one alive all the same, it would fail, and nothing would be lost.
        """
        if getattr(self.get_dag(), "max_active_runs", 0) != 1:
            return
        for left, info in repository.sessions().items():
            if info and info.purpose == purpose:
                self.log.warning("session %s of run %s was left over: fenced", left, info.run)
                repository.fence(left)

    def join(self, job: Job) -> "Session":
        """Return the job's session in this process."""
        return self.open_repository().join_session(job.session)


def run_name(dag_id: str, run_id: str) -> str:
    """Return the same short name for the same run: it is part of names in stack and repository."""
    digest = hashlib.blake2s(f"{dag_id}\n{run_id}".encode(), digest_size=4).hexdigest()
    readable = _NOT_IN_NAMES.sub("-", f"{dag_id}-{run_id}".lower()).strip("-")
    return f"{readable[:64].strip('-')}-{digest}".lstrip("-")


def check_this_host(host: str) -> None:
    """
    Refuse another host's work, where a host knows itself by ``AZSTACK_BACKUP_HOST``.

    :raises ConfigurationError: this worker serves the wrong queue.
    """
    here = os.environ.get("AZSTACK_BACKUP_HOST", "")
    if here and here != host:
        raise ConfigurationError(
            f"work of backup host {host!r} reached {here!r} (AZSTACK_BACKUP_HOST): "
            "start that worker with its own queue"
        )
