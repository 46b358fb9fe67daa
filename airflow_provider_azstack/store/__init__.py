"""Objects: names and bytes, in a directory or a bucket. ``open_store`` is the way in."""

from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.opening import open_store

__all__ = ["Buffer", "ObjectInfo", "Store", "open_store"]
