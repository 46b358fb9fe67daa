"""
Shows that Airflow really held every stream to its host.

Owns the check of a finished run's task instances. Invariant: a stream outside its host's pool or
queue, or one more at a time than the pool has slots, fails the demo.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

from airflow_provider_azstack.speed import counted
from demo.processes import DemoFailed

_STREAMS = "NO_OF_BACKUP_STREAMS_PER_NODE"


class Placement(NamedTuple):
    """What ran in one host's pool."""

    host: str
    pool: str
    queue: str
    slots: int
    tasks: int
    most_at_once: int

    def as_text(self) -> str:
        """Say it in a line."""
        most = f"at most {self.most_at_once} of {counted(self.slots, 'slot')} at once"
        return f"{self.pool}: {counted(self.tasks, 'task')}, {most}"


def check_placement(tasks: Iterable[dict[str, Any]], config: dict[str, Any]) -> list[Placement]:
    """
    Return what ran in each host's pool.

    :param tasks: task instances of a run, every try of each.
    :raises DemoFailed: something ran where it must not, or too much of it at once.
    """
    known = list(tasks)
    return [_placement(known, host, slots_of(config, host)) for host in config["hosts"]]


def slots_of(config: dict[str, Any], host: str) -> int:
    """Return how many streams a host may run at once."""
    return int(config["hosts"][host].get(_STREAMS, config[_STREAMS]))


def _placement(tasks: list[dict[str, Any]], host: str, slots: int) -> Placement:
    streams = [task for task in tasks if task["task_id"].startswith(f"{host}.workloads.")]
    pool, queue = f"azstack_{host}", host
    for task in streams:
        if (task["pool"], task["queue"]) != (pool, queue):
            raise DemoFailed(f"{task['task_id']} ran in pool {task['pool']}: {task['queue']}")
    most = most_at_once(streams)
    if most > slots:
        raise DemoFailed(f"{most} streams at once in the pool of {host}, which has {slots}")
    return Placement(host, pool, queue, slots, len(streams), most)


def most_at_once(tasks: list[dict[str, Any]]) -> int:
    """Return how many of the tasks ran at the same moment."""
    moments = []
    for task in tasks:
        if task["start_date"] and task["end_date"]:
            moments.append((_moment(task["start_date"]), 1))
            moments.append((_moment(task["end_date"]), -1))
    # At the same moment an end counts before a start.
    return max(accumulate(step for _, step in sorted(moments)), default=0)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
