"""Restore virtual machines: triggered by hand, by the form or the REST API."""

from airflow_provider_azstack.dag_factory import restore_dag

dag = restore_dag("azstack_restore")
