"""Every Saturday: restore the VM that is due on trial, and keep the evidence."""

from airflow_provider_azstack.dag_factory import rehearsal_dag

dag = rehearsal_dag("azstack_rehearsal", scratch="/var/tmp", schedule="0 10 * * 6")  # noqa: S108 - made safely there
