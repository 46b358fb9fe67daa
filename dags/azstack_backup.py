"""Every night: back up the virtual machines that carry the tag ``backup: nightly``."""

from airflow_provider_azstack.dag_factory import backup_dag

dag = backup_dag(
    "azstack_backup",
    policy={"name": "nightly", "selection": {"tags": {"backup": "nightly"}}},
    schedule="0 1 * * *",
)
