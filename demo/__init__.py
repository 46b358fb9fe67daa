"""``make demo``: the shipped backup DAG in a real Airflow, against the emulated stack."""
