"""
Builds the DAGs: what a user's DAG file imports.

Owns nothing itself: a compound backup is in ``backup``, a restore in ``restore``, and what keeps a
repository and a stack in order in ``upkeep``.
"""

from airflow_provider_azstack.dag_factory.backup import backup_dag, policy_files
from airflow_provider_azstack.dag_factory.restore import restore_dag
from airflow_provider_azstack.dag_factory.upkeep import (
    janitor_dag,
    prune_dag,
    rehearsal_dag,
    sync_dag,
    verify_dag,
)

__all__ = [
    "backup_dag",
    "janitor_dag",
    "policy_files",
    "prune_dag",
    "rehearsal_dag",
    "restore_dag",
    "sync_dag",
    "verify_dag",
]
