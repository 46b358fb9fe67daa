"""
``airflow azstack points``: what could be restored.

Owns nothing but where the repository comes from; the listing is the console's.
Invariant: the same table as ``azstack points``.
"""

from argparse import Namespace

from airflow_provider_azstack.commands.connections import open_repository
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.console.points import list_points


@command
def points(args: Namespace) -> int:
    """List restore points of all VMs, or of those called --vm."""
    return list_points(open_repository(args), args.vm, args.output)
