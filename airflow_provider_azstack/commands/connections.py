"""
Which connections a command is about.

Owns the order: the command line, then the configuration; knows nothing of what they open.
Invariant: a command whose connections are named needs no configuration file.
"""

from argparse import Namespace

from airflow_provider_azstack.config import load_config
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.hooks.stack import AzureStackHook


def stack_hook(args: Namespace) -> AzureStackHook:
    """Return the hook of ``--stack-conn-id``, else of the configuration's stack."""
    return AzureStackHook(args.stack_conn_id or load_config(args.config).stack_conn_id)


def repository_hook(args: Namespace) -> RepositoryHook:
    """Return the hook of ``--repository-conn-id``, else of the configuration's repository."""
    named = args.repository_conn_id
    return RepositoryHook(named or load_config(args.config).repository_conn_id)
