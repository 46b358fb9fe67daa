"""
Which connections a command is about.

Owns the order: the command line, the configuration, the default; knows nothing of what they open.
Invariant: a command whose connections are named, or are the default ones, needs no configuration.
"""

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from airflow_provider_azstack.config import config_path, load_config
from airflow_provider_azstack.console.arguments import keeps
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.hooks.stack import AzureStackHook

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository


def stack_hook(args: Namespace) -> AzureStackHook:
    """Return the hook of ``--stack-conn-id``, else of the configuration's stack."""
    named = args.stack_conn_id or _configured(args, "stack_conn_id")
    return AzureStackHook(named or AzureStackHook.default_conn_name)


def repository_hook(args: Namespace) -> RepositoryHook:
    """Return the hook of ``--repository-conn-id``, else of the configuration's repository."""
    named = args.repository_conn_id or _configured(args, "repository_conn_id")
    return RepositoryHook(named or RepositoryHook.default_conn_name)


def open_repository(args: Namespace) -> "Repository":
    """Open the repository; what a task's log would tell of its cache is said, for logs are off."""
    hook = repository_hook(args)
    repository = hook.get_conn()
    if cache := repository.cache_directory:
        keeps(cache.parent, f"cache_directory of connection {hook.repository_conn_id}")
    return repository


def _configured(args: Namespace, key: str) -> str:
    """Return what the configuration says; nothing where nobody has written or named a file."""
    written = args.config or "AZSTACK_CONF" in os.environ or config_path().exists()
    return str(getattr(load_config(args.config), key)) if written else ""
