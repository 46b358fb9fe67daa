"""One DAG for each policy file: ``policies/nightly.yaml`` makes the DAG ``azstack_nightly``."""

from airflow_provider_azstack.dag_factory import policy_dags

for dag in policy_dags():
    globals()[dag.dag_id] = dag
