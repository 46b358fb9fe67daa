"""Every day: verify the repository's structure and a thirtieth of its packs."""

from airflow_provider_azstack.dag_factory import verify_dag

dag = verify_dag("azstack_verify", schedule="0 12 * * *")
