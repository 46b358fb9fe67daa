"""Every day, for each replica in azurestack.conf: copy the restore points that it lacks."""

from airflow_provider_azstack.config import load_config
from airflow_provider_azstack.dag_factory import sync_dag

for replica in load_config().replica_conn_ids:
    dag = sync_dag(f"azstack_sync_{replica}", replica, schedule="0 7 * * *")
