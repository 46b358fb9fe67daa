"""
The tasks of a compound backup, each a sentence over the engine.

Owns what crosses from task to task; how things are done is the engine's business.
Invariant: the first task refuses what it was not asked properly, before anything is touched; and
no task of Airflow's own (marked, cleared or skipped by hand) makes a restore point: ``Complete``
decides from the repository and the manifests.
"""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowSkipException, Asset, AssetAlias, Context

from airflow_provider_azstack.config import BackupHost, Caps
from airflow_provider_azstack.engine.backup.window import window
from airflow_provider_azstack.engine.pace import Pace, host_limits
from airflow_provider_azstack.engine.summary import backup_table
from airflow_provider_azstack.errors import (
    ConfigurationError,
    IncompleteJob,
    StreamsFailed,
    WindowEnded,
)
from airflow_provider_azstack.hooks.pools import check_pool
from airflow_provider_azstack.hooks.stack import AzureStackHook
from airflow_provider_azstack.links import PORTAL_KEY, PortalLink, portal_url
from airflow_provider_azstack.model import (
    Job,
    JobRecord,
    Manifest,
    Unprotected,
    Workload,
    from_plain,
    to_plain,
)
from airflow_provider_azstack.operators.base import (
    AzStackOperator,
    check_this_host,
    run_name,
    stops_retries,
)
from airflow_provider_azstack.operators.watch import Watch, summarise
from airflow_provider_azstack.policy import Policy, TriggerConf, read_trigger
from airflow_provider_azstack.speed import counted

_REASONS = "reasons"
# Consumers schedule on this alias, or on azstack://<stack>/<vm>; names of VMs may repeat: the
# event's extra has the key.
RESTORE_POINTS = "azstack_restore_points"


class OpenSession(AzStackOperator):
    """Check what the trigger asks for, and claim the repository for this run."""

    def __init__(self, *, policy: Policy, hosts: Sequence[BackupHost], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.hosts = tuple(hosts)

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the job."""
        run = context["dag_run"]
        trigger = read_trigger(run.conf)
        chosen_hosts(self.hosts, trigger)
        ends = window(
            run.run_after,
            self.policy.timezone,
            self.policy.stop_starting_after or "",
            self.policy.stop_running_after or "",
        )
        with self.open_stack() as stack:
            stack_name = stack.name
        # A session's record holds texts of up to 256 characters.
        purpose = f"backup of {stack_name} by {run.dag_id}"[:256]
        repository = self.open_repository()
        self.fence_left_over(repository, purpose)
        session = repository.open_session(
            purpose, run=run_name(run.dag_id, run.run_id), host=socket.gethostname()
        )
        job = Job(
            run=run_name(run.dag_id, run.run_id),
            session=session.id,
            policy=self.policy.name,
            stack=stack_name,
            mode=trigger.mode or self.policy.mode,
            consistency=self.policy.consistency,
            compression=trigger.compression or self.policy.compression,
            snapshot_group=self.policy.snapshot_resource_group or "",
            stop_starting_at=ends.stop_starting_at,
            stop_running_at=ends.stop_running_at,
        )
        self.log.info("run %s, session %s, mode %s", job.run, job.session, job.mode)
        return to_plain(job)


class Discover(AzStackOperator):
    """Ask the stack what the policy selects, and write one manifest for each backup host."""

    template_fields = ("job",)

    def __init__(
        self,
        *,
        job: Any,
        policy: Policy,
        hosts: Sequence[BackupHost],
        caps: Caps,
        split_bytes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.policy = policy
        self.hosts = tuple(hosts)
        self.caps = caps
        self.split_bytes = split_bytes

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Push ``manifest_<host>`` for each host; return what all later tasks need to know."""
        # The engine loads azure and cryptography: not while DAG files are parsed.
        from airflow_provider_azstack.engine.backup import (  # noqa: PLC0415
            discover,
            manifests,
            outlook,
            past,
            prepare,
        )

        job = from_plain(Job, self.job, "the job from open_session")
        run = context["dag_run"]
        trigger = read_trigger(run.conf)
        session = self.join(job)
        with self.open_stack(mid_work=False) as stack:
            here = AzureStackHook(self.stack_conn_id).subscription_id
            inventory = discover.discover(stack, self.policy.within(here), trigger)
        for vm in inventory.unprotected:
            self.log.warning("not protected: %s: %s", vm.name, vm.reason)
        written = prepare.prepare(
            job,
            inventory.vms,
            chosen_hosts(self.hosts, trigger),
            prepare.Terms(self.policy, self.caps, self.split_bytes),
            past.Past(session.repository.job_outlines()),
            now=datetime.now(UTC),
            has_points=session.repository.has_points,
        )
        for line in outlook.lines(job, [m.forecast for m in written if m.forecast]):
            self.log.info("%s", line)
        for manifest in written:
            light = to_plain(manifests.spill(session, manifest))
            context["ti"].xcom_push(key=_manifest_key(manifest.host), value=light)
        return {
            "job": to_plain(job),
            "hosts": [manifest.host for manifest in written],
            "unprotected": [to_plain(vm) for vm in inventory.unprotected],
            "started_at": str(run.start_date),
        }


class AcceptManifest(AzStackOperator):
    """On a backup host: check that it can work at all, then hand out its workloads."""

    template_fields = ("discovered",)

    def __init__(self, *, host: BackupHost, discovered: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.discovered = discovered

    @stops_retries
    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return the host's workloads; the streams are mapped over them."""
        if self.host.name not in (self.discovered or {}).get("hosts", ()):
            raise AirflowSkipException(f"backup host {self.host.name!r} has no part in this run")
        manifest = _manifest(context, self.host.name)
        if not manifest.workloads:
            self.log.info("nothing to stream on backup host %s", self.host.name)
            return []
        check_this_host(self.host.name)
        check_pool(self.host)
        self.join(manifest.job).check()
        with self.open_stack() as stack:
            next(iter(stack.subscriptions()), None)
        return [to_plain(workload) for workload in manifest.workloads]


class _WorkloadOperator(AzStackOperator):
    """Base of the mapped tasks, which work on one workload."""

    template_fields = ("workload",)
    operator_extra_links = (PortalLink(),)

    def __init__(self, *, host: str, workload: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.workload = workload

    def accept(self, context: Context) -> Workload:
        """Return the workload, which must be this host's."""
        workload = from_plain(Workload, self.workload, "the workload from accept_manifest")
        if workload.host != self.host:
            raise ConfigurationError(
                f"a workload of backup host {workload.host!r} reached {self.host!r}: "
                "trigger a new run"
            )
        check_this_host(self.host)
        url = portal_url(workload.job.stack, workload.vms)
        context["ti"].xcom_push(key=PORTAL_KEY, value=url)
        return workload


class Snapshot(_WorkloadOperator):
    """Snapshot the disks of each VM of a workload together."""

    @stops_retries
    def execute(self, context: Context) -> None:
        """Try each VM; fail at the end if one could not be snapshotted."""
        from airflow_provider_azstack.engine.backup import stream  # noqa: PLC0415 - loads cryptography

        workload = self.accept(context)
        session = self.join(workload.job)
        with self.open_stack() as stack, self.stoppable():
            try:
                stream.snapshot_workload(stack, session, workload)
            except StreamsFailed as failed:
                skip_after_window(failed)
                raise


class Stream(_WorkloadOperator):
    """
    Read the snapshots of a workload into the repository.

    :param limit_bytes: what this host may move in a second, over all its streams; None: no limit.
    """

    def __init__(self, *, limit_bytes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit_bytes = limit_bytes

    @stops_retries
    def execute(self, context: Context) -> None:
        """Try each VM; fail at the end if one could not be read."""
        from airflow_provider_azstack.engine.backup import stream  # noqa: PLC0415 - loads cryptography

        workload = self.accept(context)
        session = self.join(workload.job)
        with self.open_stack() as stack, self.stoppable() as cancel:
            try:
                stream.stream_workload(
                    stack,
                    session,
                    workload,
                    progress=Watch(self, context, "backup", _tags(workload.job, self.host)),
                    cancel=cancel,
                    pace=self._pace(workload),
                )
            except StreamsFailed as failed:
                context["ti"].xcom_push(key=_REASONS, value=failed.reasons)
                skip_after_window(failed)
                raise

    def _pace(self, workload: Workload) -> Pace:
        policy, share = workload.job.policy, workload.limit_bytes
        return Pace(host_limits(self.host, self.limit_bytes, policy, share))


class Complete(AzStackOperator):
    """Publish a restore point for each VM whose disks are all there; fail if one is missing."""

    template_fields = ("discovered",)

    def __init__(self, *, discovered: Any, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [AssetAlias(RESTORE_POINTS)])
        super().__init__(**kwargs)
        self.discovered = discovered

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return how the job ended; details are in the job's record."""
        from airflow_provider_azstack.engine.backup import complete  # noqa: PLC0415 - loads cryptography

        if not self.discovered:
            raise IncompleteJob("discovery did not end well: nothing was backed up; see its log")
        job = from_plain(Job, self.discovered["job"], "the job from discover")
        record = complete.complete(
            self.join(job),
            job,
            discovered_manifests(context, self.discovered),
            [from_plain(Unprotected, vm, "discover") for vm in self.discovered["unprotected"]],
            started_at=datetime.fromisoformat(self.discovered["started_at"]),
            reasons=self._reasons(context),
        )
        summarise(self, context, "backup", backup_table(record), _tags(job))
        complete.require_done(record)
        announce(context, record)
        return {"run": job.run, "status": record.status, "vms": len(record.vms)}

    def _reasons(self, context: Context) -> dict[str, str]:
        """Return what the last try of each stream said of the VMs that failed."""
        streams = [name for name in self.upstream_task_ids if name.endswith(".stream")]
        pulled = context["ti"].xcom_pull(task_ids=streams, key=_REASONS) if streams else None
        return {vm: str(reason) for some in pulled or () if some for vm, reason in some.items()}


class CleanUp(AzStackOperator):
    """Revoke grants, delete snapshots that are not needed any more, and close the session."""

    template_fields = ("job",)

    def __init__(self, *, job: Any, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [AssetAlias(RESTORE_POINTS)])
        super().__init__(**kwargs)
        self.job = job

    @stops_retries
    def execute(self, context: Context) -> None:
        """Clean up after this run, whatever became of it."""
        from airflow_provider_azstack.engine.backup import clean_up  # noqa: PLC0415 - loads cryptography

        job = from_plain(Job, self.job, "the job from open_session")
        discovered = context["ti"].xcom_pull(task_ids="discover")
        repository = self.open_repository()
        with self.open_stack() as stack:
            removed = clean_up.clean_up(
                stack,
                repository,
                run=job.run,
                session_id=job.session,
                manifests=discovered_manifests(context, discovered or {"hosts": []}),
            )
        self.log.info("%s removed", counted(removed, "snapshot"))
        record = repository.job(job.run)
        if record and any(vm.status == "failed" for vm in record.vms):
            # Airflow drops the events of a task that failed, as ``complete`` did.
            announce(context, record)


def _tags(job: Job, host: str = "") -> dict[str, str]:
    """Return the tags of the job's metrics."""
    tags = {"policy": job.policy, "stack": job.stack, "mode": job.mode}
    return {**tags, "host": host} if host else tags


def announce(context: Context, record: JobRecord) -> None:
    """Tell Airflow of each restore point; others' DAGs start on that."""
    events = context["outlet_events"][AssetAlias(RESTORE_POINTS)]
    for vm in record.vms:
        if vm.point:
            uri = f"azstack://{record.job.stack}/{quote(vm.name, safe='')}"
            events.add(Asset(uri), extra=to_plain(vm))


def skip_after_window(failed: StreamsFailed) -> None:
    """
    Tell Airflow that nothing went wrong where only the window kept VMs from being done.

    What that means for the run is for ``Complete`` to say.
    """
    if all(isinstance(error, WindowEnded) for error in failed.failures.values()):
        raise AirflowSkipException(str(failed))


def chosen_hosts(hosts: Sequence[BackupHost], trigger: TriggerConf) -> tuple[BackupHost, ...]:
    """
    Return those of ``hosts`` that the trigger asks for.

    :raises ConfigurationError: it asks for one that this DAG does not have.
    """
    known = {host.name for host in hosts}
    if unknown := sorted(set(trigger.hosts) - known):
        raise ConfigurationError(
            f"the trigger's config: hosts: {unknown[0]!r} is not a backup host of this DAG "
            f"({', '.join(sorted(known))})"
        )
    return tuple(host for host in hosts if not trigger.hosts or host.name in trigger.hosts)


def discovered_manifests(context: Context, discovered: dict[str, Any]) -> list[Manifest]:
    """Return what discovery gave each host, those that left the DAG since then included."""
    return [_manifest(context, host) for host in discovered["hosts"]]


def _manifest(context: Context, host: str) -> Manifest:
    value = context["ti"].xcom_pull(task_ids="discover", key=_manifest_key(host))
    return from_plain(Manifest, value, f"the manifest of backup host {host!r}")


def _manifest_key(host: str) -> str:
    return f"manifest_{host}"
