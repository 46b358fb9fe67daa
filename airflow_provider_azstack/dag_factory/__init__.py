"""
Builds the DAGs: what a user's DAG file imports.

Owns nothing itself: a compound backup is in ``backup``, a restore in ``restore``, what keeps a
repository and a stack in order in ``upkeep``, and where policies are in ``policies``.
Invariant: a DAG file loads what its own DAG needs. Each of its tasks loads that file again.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_azstack.dag_factory.backup import backup_dag, policy_dag, policy_dags
    from airflow_provider_azstack.dag_factory.policies import policy_files
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
    "policy_dag",
    "policy_dags",
    "policy_files",
    "prune_dag",
    "rehearsal_dag",
    "restore_dag",
    "sync_dag",
    "verify_dag",
]
_ELSEWHERE = {
    "backup_dag": "backup",
    "policy_dag": "backup",
    "policy_dags": "backup",
    "policy_files": "policies",
    "restore_dag": "restore",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'upkeep')}"), name)
