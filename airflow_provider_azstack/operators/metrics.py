"""
Our metrics, through whatever Airflow itself is configured to emit: StatsD, Datadog, OpenTelemetry.

Owns the names and the tags, which docs/metrics.md explains; keeps no numbers.
Invariants: what a number means is in its name, because plain StatsD drops tags; a metric that
cannot be emitted is a debug line, and never harms the work that it is about.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.engine.summary import Table
from airflow_provider_azstack.errors import AzStackError
from airflow_provider_azstack.speed import Told

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

PREFIX = "azstack"
Tags = Mapping[str, str]


def count(name: str, value: int, tags: Tags) -> None:
    """Add to a counter; adding nothing is not told."""
    if value > 0:
        _emit("incr", name, value, tags)


def gauge(name: str, value: float, tags: Tags) -> None:
    """Set what stays as it is until it is set again."""
    _emit("gauge", name, value, tags)


def timing(name: str, seconds: float, tags: Tags) -> None:
    """Tell how long something took."""
    _emit("timing", name, timedelta(seconds=seconds), tags)


class Stream:
    """
    Turns the lines of running work into counters, which add up over streams and hosts.

    :param kind: ``backup``, ``restore``...
    """

    def __init__(self, kind: str, tags: Tags) -> None:
        self._kind = kind
        self._tags = tags
        self._seen: dict[str, dict[str, float]] = {}

    def tell(self, told: Told) -> None:
        """Count what was done since the line before."""
        before = self._seen.get(told.key, {})
        now = {key: value for key, value in told.facts.items() if _adds_up(key)}
        self._seen[told.key] = now
        for key, value in now.items():
            more = value - before.get(key, 0)
            if key == "seconds":
                count(f"{self._kind}.stream.busy_milliseconds", int(1000 * more), self._tags)
            else:
                count(f"{self._kind}.stream.{key}", int(more), self._tags)


def table(kind: str, summary: Table, tags: Tags) -> None:
    """Tell the sums of a run: what counts things as counters, how long it took as a timing."""
    for total in summary.totals:
        if total.key == "seconds":
            timing(f"{kind}.duration", float(total.value or 0), tags)
        elif isinstance(total.value, int):
            count(f"{kind}.{total.key}", total.value, tags)


def repository(opened: "Repository", now: datetime | None = None) -> None:
    """
    Tell how many restore points there are, and the age of the newest ones.

    Names alone are listed, since their order is that of time: nothing is read. ``azstack
    coverage`` says more, of each VM, and from what is sealed.
    """
    tags = {"repository": opened.id}
    newest: dict[str, datetime] = {}
    total = 0
    try:
        for vm_key, taken_at in _points(info.name for info in opened.store.list("points/")):
            total += 1
            newest[vm_key] = max(taken_at, newest.get(vm_key, taken_at))
    except AzStackError as error:
        log.warning("the metrics of restore points were not emitted: %s", error)
        return
    gauge("points.total", total, tags)
    gauge("points.vms", len(newest), tags)
    now = now or datetime.now(UTC)
    ages = sorted((now - taken_at).total_seconds() for taken_at in newest.values())
    if ages:
        gauge("points.newest_age_seconds.max", round(ages[-1]), tags)
        gauge("points.newest_age_seconds.median", round(ages[len(ages) // 2]), tags)


def _points(names: Iterable[str]) -> Iterable[tuple[str, datetime]]:
    for name in names:
        try:
            _, vm_key, point = name.split("/")
            stamp = point.partition("-")[0].upper()  # %z takes the Z that ends it, and nothing less
            yield vm_key, datetime.strptime(stamp, "%Y%m%dT%H%M%S.%f%z")
        except ValueError:
            continue  # nothing that we name so


def _adds_up(key: str) -> bool:
    return key == "seconds" or key.endswith("_bytes")


def _emit(verb: str, name: str, value: Any, tags: Tags) -> None:
    try:
        # Not while DAG files are parsed; and from where Airflow's own provider says that it is.
        from airflow.providers.common.compat.sdk import Stats  # noqa: PLC0415

        getattr(Stats, verb)(f"{PREFIX}.{name}", value, tags=dict(tags))
    except Exception as error:  # noqa: BLE001 - whoever receives metrics, the work goes on
        log.debug("metric %s was not emitted: %s", name, error)
