"""
``airflow azstack forget`` and ``airflow azstack prune``: retention with Airflow's connections.

Owns nothing but where the repository comes from; the work is the console's.
Invariant: the same tables and exit states as ``azstack forget`` and ``azstack prune``.
"""

from argparse import Namespace

from airflow_provider_azstack.commands.connections import open_repository
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.console.forget import forget_by_rule
from airflow_provider_azstack.console.prune import collect
from airflow_provider_azstack.policy import load_policy


@command
def forget(args: Namespace) -> int:
    """Forget the restore points that a policy's retention does not keep."""
    policy = load_policy(args.policy)
    return forget_by_rule(
        open_repository(args),
        policy.retention,
        policy=policy.name,
        vm="",
        execute=args.execute,
        confirm=args.confirm,
        output=args.output,
    )


@command
def prune(args: Namespace) -> int:
    """Show what nothing needs, or delete it."""
    repository = open_repository(args)
    return collect(repository, args.fence, args.confirm, args.output, execute=args.execute)
