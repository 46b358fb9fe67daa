"""
``airflow azstack sync-pools``: one pool for each backup host, with one slot for each stream.

Owns the pools whose names start with ``azstack_``; never touches another.
Invariant: what a run checks before it starts streams is what was last written here, because tasks
cannot read pools: their sizes go into a variable in the same transaction.
"""

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.config import BackupHost, load_config
from airflow_provider_azstack.console.present import say, show
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.hooks.pools import POOLS_VARIABLE

_PREFIX = "azstack_"


class Change(NamedTuple):
    """What has to happen to one pool."""

    pool: str
    now: int | None
    wanted: int | None

    @property
    def action(self) -> str:
        """``create``, ``resize``, ``delete`` or ``keep``."""
        if self.now == self.wanted:
            return "keep"
        if self.now is None:
            return "create"
        return "delete" if self.wanted is None else "resize"


def plan(now: Mapping[str, int], hosts: Iterable[BackupHost]) -> list[Change]:
    """Compare the pools there are with those that ``hosts`` need, by pool name."""
    ours = {name: slots for name, slots in now.items() if name.startswith(_PREFIX)}
    wanted = {host.pool: host.streams for host in hosts}
    return [Change(name, ours.get(name), wanted.get(name)) for name in sorted({*ours, *wanted})]


def read_pools() -> dict[str, int]:
    """
    Return every pool of this Airflow and its slots.

    :raises ConfigurationError: there is no database, or none that was set up.
    """
    from airflow.models.pool import Pool  # noqa: PLC0415 - opens the metadata database
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        return {str(pool.pool): pool.slots for pool in Pool.get_pools()}
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"Airflow's database does not answer: {reason}: run 'airflow db migrate', or correct "
            "AIRFLOW_HOME or [database] sql_alchemy_conn"
        ) from None


@command
def sync_pools(args: Namespace) -> None:
    """Show the difference, and make it so unless --dry-run."""
    hosts = load_config(args.config).backup_hosts()
    changes = plan(read_pools(), hosts)
    rows = [{**change._asdict(), "action": change.action} for change in changes]
    show(rows, args.output, ("pool", "now", "wanted", "action"), nothing="no backup host, no pool")
    stale = [change.pool for change in changes if change.action == "delete"]
    if args.dry_run:
        say("nothing was changed (--dry-run)")
        return
    if stale and not args.prune:
        say(f"not deleted, since --prune was not given: {', '.join(stale)}")
    _apply(changes, prune=args.prune)


def _apply(changes: list[Change], *, prune: bool) -> None:
    from airflow.models.pool import Pool  # noqa: PLC0415 - opens the metadata database
    from airflow.models.variable import Variable  # noqa: PLC0415
    from airflow.utils.session import create_session  # noqa: PLC0415

    wanted = {change.pool: change.wanted for change in changes if change.wanted is not None}
    with create_session() as session:
        for pool, slots in wanted.items():
            Pool.create_or_update_pool(
                pool,
                slots,
                "Streams of one backup host; written by 'airflow azstack sync-pools'",
                include_deferred=False,
                session=session,
            )
        for change in changes:
            if change.action == "delete" and prune:
                Pool.delete_pool(change.pool, session=session)
        Variable.set(
            POOLS_VARIABLE,
            json.dumps(wanted, sort_keys=True),
            description="Sizes of the pools of the backup hosts",
            session=session,
        )
