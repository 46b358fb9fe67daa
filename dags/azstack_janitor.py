"""Every Sunday: remove what killed runs left on the stack."""

from airflow_provider_azstack.dag_factory import janitor_dag

dag = janitor_dag("azstack_janitor", schedule="0 6 * * 0")
