"""
The tasks that verify a repository, and that fail when it is damaged.

Owns their place in Airflow; what is checked, and how, ``repo.verify`` decides.
Invariant: what was found is told whatever it is; damage fails the run, and never goes by unseen.
"""

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias, Context

from airflow_provider_azstack.engine.summary import verify_table
from airflow_provider_azstack.errors import DamageFound, SessionLost, TransientError
from airflow_provider_azstack.operators import metrics
from airflow_provider_azstack.operators.base import AzStackOperator, stops_retries
from airflow_provider_azstack.operators.watch import Watch, summarise
from airflow_provider_azstack.speed import amount, counted

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.verify.findings import Report

VERIFICATIONS = "azstack_verifications"
MODE = "mode"  # of the run's params, if it has such a one
MODES = ("structure", "cycle", "full")
_SHOWN = 100  # findings that the log lists; all are in the report of 'azstack verify --json'


class Verify(AzStackOperator):
    """
    Verify a repository, and tell Airflow how it is.

    :param mode: ``structure``, ``cycle`` or ``full``; a run's param of that name wins.
    :param budget_bytes: of a cycle: how much to read; 0 is what a daily run needs.
    :param days: in which daily cycles read everything.
    """

    def __init__(
        self, *, mode: str = "cycle", budget_bytes: int = 0, days: int = 30, **kwargs: Any
    ) -> None:
        kwargs.setdefault("outlets", [AssetAlias(VERIFICATIONS)])
        super().__init__(**kwargs)
        self.mode = mode
        self.budget_bytes = budget_bytes
        self.days = days

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return how the repository is; what is found damaged fails the next task, not this."""
        from airflow_provider_azstack.repo.verify.verification import verify  # noqa: PLC0415 - cryptography

        repository = self.open_repository()
        tags = {"repository": repository.id}
        purpose = f"verify by {context['dag_run'].dag_id}"[:256]
        self.fence_left_over(repository, purpose)
        with self.stoppable() as cancel:
            try:
                report = verify(
                    repository,
                    context["params"].get(MODE, self.mode),
                    budget_bytes=self.budget_bytes or None,
                    days=self.days,
                    resume=context["ti"].try_number > 1,
                    purpose=purpose,
                    progress=Watch(self, context, "verify", tags),
                    cancel=cancel,
                )
            except SessionLost as lost:
                # Unlike a backup's, this session is the task's own: another try opens another one.
                raise TransientError(str(lost)) from None
        self._log(report)
        summarise(self, context, "verify", verify_table(report), tags)
        metrics.gauge("repository.bytes", report.pack_bytes, tags)
        metrics.gauge("repository.packs", report.packs, tags)
        metrics.gauge("repository.sound", int(report.is_sound), tags)
        metrics.repository(repository)
        facts = _facts(report)
        # Of a task of its own: Airflow drops the events of one that failed.
        asset = Asset(f"azstack://repositories/{report.repository}")
        context["outlet_events"][AssetAlias(VERIFICATIONS)].add(asset, extra=facts)
        return facts

    def _log(self, report: "Report") -> None:
        for finding in report.findings[:_SHOWN]:
            self.log.warning("%s %s", finding.object, finding.problem)
        for disk in report.affected[:_SHOWN]:
            name = disk.vm or disk.vm_key
            lost = amount(disk.lost_bytes)
            self.log.warning("%s: %s of %s in point %s", name, lost, disk.disk_key, disk.point)
        if report.cycle is not None and not report.cycle.is_enough:
            self.log.warning(
                "daily runs of %s do not read everything in %s; %s would",
                amount(report.cycle.budget_bytes),
                counted(report.cycle.days, "day"),
                amount(report.cycle.needed_bytes),
            )
        self.log.info("%s", report.summary())


class RequireSound(AzStackOperator):
    """
    Fail when a verification found damage.

    :param verified: what ``Verify`` returned.
    """

    template_fields = ("verified",)

    def __init__(self, *, verified: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verified = verified

    @stops_retries
    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow's signature
        """Let the run be red, and say why."""
        if not self.verified["is_sound"]:
            raise DamageFound(
                f"{self.verified['summary']}; 'azstack verify --json' names every disk and range"
            )


def _facts(report: "Report") -> dict[str, Any]:
    return {
        "verification": report.verification,
        "repository": report.repository,
        "mode": report.mode,
        "is_sound": report.is_sound,
        "summary": report.summary(),
        "points": report.points,
        "damaged_points": report.damaged_points,
        "verified_vms": len(report.verified),
        "packs": report.packs,
        "read_packs": report.read_packs,
        "read_bytes": report.read_bytes,
        "is_budget_enough": report.cycle is None or report.cycle.is_enough,
    }
