"""One DAG for each policy file: ``policies/nightly.yaml`` makes the DAG ``azstack_nightly``."""

from airflow_provider_azstack.dag_factory import policy_dag, policy_files

for file in policy_files():
    dag = policy_dag(file)
