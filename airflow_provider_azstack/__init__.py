"""Agentless backup and restore of Azure Stack Hub virtual machines, from inside Apache Airflow."""

__version__ = "0.1.0"
