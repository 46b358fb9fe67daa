"""
The policy files of an installation.

Owns where they are looked for; reads none of them.
Invariant: a file that somebody put there as a policy is returned, or refused; none is passed over.
"""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from airflow_provider_azstack.config import config_path
from airflow_provider_azstack.errors import ConfigurationError

_YAML = {".yaml", ".yml"}


def policy_files(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """
    Return the YAML files in ``AZSTACK_POLICIES``, else in ``policies`` beside the configuration.

    What begins with a dot is an editor's or a system's and no policy.

    :raises ConfigurationError: ``AZSTACK_POLICIES`` is no directory, or two files would make one
        DAG.
    """
    named = environ.get("AZSTACK_POLICIES")
    directory = Path(named) if named else config_path(environ).parent / "policies"
    if named and not directory.is_dir():
        raise ConfigurationError(f"AZSTACK_POLICIES: {named} is no directory: correct it")
    named_so = (file for file in directory.glob("*") if file.suffix in _YAML)
    found = sorted((f for f in named_so if not f.name.startswith(".")), key=lambda f: (f.stem, f))
    for file, other in pairwise(found):
        if file.stem == other.stem:
            raise ConfigurationError(f"{file} and {other.name} would make one DAG: rename one")
    return found
