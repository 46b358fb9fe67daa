"""
``airflow azstack init-repository``: create the repository that a connection describes.

Owns nothing but where address and passphrase come from; creating is the console's.
Invariant: the same as that of ``azstack init``.
"""

from argparse import Namespace

from airflow_provider_azstack.commands.connections import repository_hook
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.console.init import create_repository


@command
def init_repository(args: Namespace) -> int:
    """Create it, print the recovery key, and say what to do with both."""
    hook = repository_hook(args)
    return create_repository(hook.get_store(create=True), hook.get_passphrase())
