"""
Shows that Airflow really held every stream to its host.

Owns the check of a finished run's task instances. Invariant: a stream outside its host's pool or
queue, or one more at a time than the pool has slots, fails the demo.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from typing import Any

from demo.processes import DemoFailed


def check_placement(tasks: list[dict[str, Any]], config: dict[str, Any]) -> Iterator[str]:
    """Yield what is to be said of each host's pool."""
    for host, settings in config["hosts"].items():
        key = "NO_OF_BACKUP_STREAMS_PER_NODE"
        slots = settings.get(key, config[key])
        streams = [task for task in tasks if task["task_id"].startswith(f"{host}.workloads.")]
        for task in streams:
            if (task["pool"], task["queue"]) != (f"azstack_{host}", host):
                raise DemoFailed(f"{task['task_id']} ran in pool {task['pool']}: {task['queue']}")
        most = most_at_once(streams)
        if most > slots:
            raise DemoFailed(f"{most} streams at once in the pool of {host}, which has {slots}")
        yield f"azstack_{host}: {len(streams)} tasks, at most {most} of {slots} slots at once"


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
