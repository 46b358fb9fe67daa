"""
What the DAGs share: where a task runs, with which connections, how often it and a DAG are tried.

Owns these settings; knows no DAG's shape.
Invariant: a task of a backup host is in that host's queue.
"""

from datetime import timedelta
from typing import Any

from airflow_provider_azstack.config import BackupHost, Config
from airflow_provider_azstack.policy import Policy

# Streams outlive an outage of the stack, the store or the API server of about an hour.
STREAM_RETRIES: dict[str, Any] = {
    "retries": 6,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=20),
}
CONTROL_RETRIES: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(seconds=30)}
# The past of a schedule is not made up for; and no number of failures in a row, whatever Airflow is
# configured to, makes it pause what must be tried again the next night.
UNATTENDED: dict[str, Any] = {"catchup": False, "max_consecutive_failed_dag_runs": 0}


def connection_ids(config: Config, policy: Policy | None = None) -> dict[str, str]:
    """Return the connections of a policy, which go before those of the configuration."""
    return {
        "stack_conn_id": (policy and policy.stack_conn_id) or config.stack_conn_id,
        "repository_conn_id": (policy and policy.repository_conn_id) or config.repository_conn_id,
    }


def placement(host: BackupHost) -> dict[str, Any]:
    """Return what makes a task run on a backup host."""
    placement: dict[str, Any] = {"queue": host.queue}
    if host.executor:
        placement["executor"] = host.executor
    return placement


def group_id(host: str) -> str:
    """Return the host's name as a group id, where a dot would separate group and task."""
    return host.replace("_", "__").replace(".", "_")
