"""Every Sunday: forget what the policies do not keep, and make room."""

from airflow_provider_azstack.dag_factory import policy_files, prune_dag

dag = prune_dag("azstack_prune", policies=policy_files(), schedule="0 14 * * 0")
