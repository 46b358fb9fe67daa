"""
What a task may know of the pools: tasks cannot read them, so ``sync-pools`` writes a variable.

Owns the variable's name and form; knows neither the metadata database nor the configuration file.
Invariant: a stream never waits for a pool that was not there when its host accepted its manifest.
"""

import json

from airflow.providers.common.compat.sdk import Variable

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.speed import counted

POOLS_VARIABLE = "azstack_pools"
_ADVICE = "run 'airflow azstack sync-pools'"


def check_pool(host: BackupHost) -> None:
    """
    Refuse to go on when ``host`` has no pool of the configured size.

    :raises ConfigurationError: a task in a missing pool would wait for ever, without a word.
    """
    slots = _known_pools().get(host.pool)
    if slots is None:
        raise ConfigurationError(f"backup host {host.name!r} has no pool {host.pool!r}: {_ADVICE}")
    if slots != host.streams:
        raise ConfigurationError(
            f"pool {host.pool!r} has {slots!r} slots, the configuration gives backup host "
            f"{host.name!r} {counted(host.streams, 'stream')}: {_ADVICE}"
        )


def _known_pools() -> dict[str, object]:
    text = Variable.get(POOLS_VARIABLE, default=None)
    if text is None:
        raise ConfigurationError(f"the pools of the backup hosts were never created: {_ADVICE}")
    try:
        pools = json.loads(text)
    except ValueError:
        pools = None
    if not isinstance(pools, dict):
        raise ConfigurationError(f"variable {POOLS_VARIABLE!r} is not what was written: {_ADVICE}")
    return pools
