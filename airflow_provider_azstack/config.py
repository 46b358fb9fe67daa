"""
``azurestack.conf`` and the predecessor's credentials file: parsed once, at the border.

Owns their shape, where they are looked for, and the errors a user sees; knows nothing of Airflow.
Policies and trigger configs are in ``policy``. Invariant: a ``Config`` that exists is valid, and
what is wrong with a file is said in one line that names the file, the key and what to do.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Record
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.wording import one_line

FILE_NAME = "azurestack.conf"
MAX_FILE_BYTES = 1 << 20
MEGABYTE = 1_000_000
GIB = 1 << 30

# `$` alone accepts a trailing newline; with the look-ahead the pattern means the same in Python, in
# a JSON schema and in a browser.
HOST_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
HostName = Annotated[str, Meta(pattern=HOST_PATTERN)]
Streams = Annotated[
    int,
    Meta(ge=1, le=64, description="Streams that run at once on a backup host: its pool's slots."),
]
ConnectionId = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$(?!\n)", description="Id of a connection."),
]
Cap = Annotated[int, Meta(ge=1, le=1000)]
# As networks and the stack's documentation count: 1 MB is 1,000,000 bytes.
Megabytes = Annotated[
    int, Meta(ge=1, le=100_000, description="MB a second, counted over all streams together.")
]
# Two hosts gain a quarter of one's time at 150 MB/s each from here on: a task more on each of them,
# one before and one after them take about 13 s.
Split = Annotated[
    float,
    Meta(gt=0, le=1 << 20, description="GiB of data from which several streams share a disk."),
]

_STREAMS_KEY = "NO_OF_BACKUP_STREAMS_PER_NODE"
_DEFAULT_STREAMS = 4
_LEAST = '{"hosts": {"<queue of the worker>": {}}}'


class Host(Record, frozen=True, kw_only=True):
    """A backup host: an Airflow worker machine whose queue is its name unless it says otherwise."""

    streams: Streams | None = field(name=_STREAMS_KEY, default=None)
    limit_mb_per_second: Megabytes | None = None
    queue: HostName | None = None
    executor: (
        Annotated[
            str,
            Meta(max_length=200, description="One of core.executor's names or aliases."),
        ]
        | None
    ) = None


class Caps(Record, frozen=True, kw_only=True):
    """Most streams at once of one compound job or restore, whatever its hosts could run."""

    storage_account: (
        Annotated[Cap, Meta(description="Streams that read unmanaged disks of one account.")] | None
    ) = None
    stack: Annotated[Cap, Meta(description="Streams that read from the stack.")] | None = None
    disk: (
        Annotated[
            Cap,
            Meta(description="Streams that read or write one disk, where it is cut into parts."),
        ]
        | None
    ) = None


class BackupHost(Record, frozen=True, kw_only=True):
    """A host with every default filled in."""

    name: str
    streams: int
    queue: str
    executor: str | None
    limit_mb_per_second: int | None = None

    @property
    def limit_bytes(self) -> int | None:
        """Bytes a second that all streams of this host may move together; None: no limit."""
        return self.limit_mb_per_second and self.limit_mb_per_second * MEGABYTE

    @property
    def pool(self) -> str:
        """Name of the Airflow pool that holds this host's streams."""
        return f"azstack_{self.name}"


class Config(Record, frozen=True, kw_only=True):
    """The whole ``azurestack.conf``."""

    schema_url: Annotated[str, Meta(max_length=500)] = field(name="$schema", default="")
    hosts: Annotated[dict[HostName, Host], Meta(min_length=1, max_length=200)]
    streams: Streams = field(name=_STREAMS_KEY, default=_DEFAULT_STREAMS)
    limit_mb_per_second: Megabytes | None = None
    caps: Caps = Caps()
    split_gib: Split = 8.0
    shared_uploads: Annotated[
        bool,
        Meta(description="The stack lets several hosts write one managed disk; tried before use."),
    ] = False
    stack_conn_id: ConnectionId = "azure_stack_default"
    repository_conn_id: ConnectionId = "azstack_repository_default"
    # Repositories that restore points are copied to.
    replica_conn_ids: Annotated[tuple[ConnectionId, ...], Meta(max_length=20)] = ()

    @property
    def split_bytes(self) -> int:
        """From how much data on several streams share a disk."""
        return int(self.split_gib * GIB)

    def backup_hosts(self, names: tuple[str, ...] = ()) -> tuple[BackupHost, ...]:
        """
        Return the hosts called ``names`` (all when there are none), ordered by name.

        :raises ConfigurationError: one of them is not in the file.
        """
        if unknown := sorted(set(names) - set(self.hosts)):
            raise ConfigurationError(
                f"backup host {unknown[0]!r} is not among the hosts of {FILE_NAME} "
                f"({', '.join(sorted(self.hosts))}): add it there or correct the name"
            )
        return tuple(
            BackupHost(
                name=name,
                streams=self.hosts[name].streams or self.streams,
                queue=self.hosts[name].queue or name,
                executor=self.hosts[name].executor,
                limit_mb_per_second=self.hosts[name].limit_mb_per_second
                or self.limit_mb_per_second,
            )
            for name in sorted(names or self.hosts)
        )


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where ``azurestack.conf`` is: ``AZSTACK_CONF``, else in ``AIRFLOW_HOME``."""
    if named := environ.get("AZSTACK_CONF"):
        return Path(named)
    return Path(environ.get("AIRFLOW_HOME") or "~/airflow").expanduser() / FILE_NAME


def load_config(source: Config | str | Path | None = None) -> Config:
    """
    Read ``azurestack.conf``, or take it from a DAG file as what it is.

    :raises ConfigurationError: it is missing, malformed, or says something it may not.
    """
    if isinstance(source, Config):
        return source
    file = Path(source) if source is not None else config_path()
    value = read_json(file, f"put {_LEAST} there, or set AZSTACK_CONF")
    try:
        return msgspec.convert(value, type=Config)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{file}: {_name_the_host(value, error)}; docs/configuration.md lists the keys"
        ) from None


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of ``azurestack.conf``; ``azurestack.schema.json`` holds this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE_NAME,
        **msgspec.json.schema(Config),
    }


class Credentials(Record, frozen=True, kw_only=True):
    """What a predecessor's credentials file holds."""

    identity_provider: str
    tenant_id: str
    client_id: str
    client_secret: Secret
    auth_resource: str
    account_keys: dict[str, Secret]


_CREDENTIAL_KEYS = {"IdentityProvider", "TenantId", "ClientId", "ClientSecret", "AuthResource"}
_NEEDED = {"IdentityProvider", "ClientId", "ClientSecret"}
_IDENTITY_PROVIDERS = {"aad": "aad", "azuread": "aad", "adfs": "adfs", "ad fs": "adfs"}


def read_credentials(path: str | Path) -> Credentials:
    """
    Read a credentials file of the predecessor; every key it does not know is a storage account.

    :raises ConfigurationError: it is not such a file; no value of it is ever shown.
    """
    file = Path(path)
    value = read_json(file, "give the path of the credentials file")
    for key in value:
        if not isinstance(value[key], str) or not value[key] or "\n" in value[key]:
            raise ConfigurationError(f"{file}: {key[:80]!r} must be a text of one line")
    if missing := sorted(_NEEDED - value.keys()):
        raise ConfigurationError(f"{file}: {', '.join(missing)} is missing: add it and try again")
    provider = _IDENTITY_PROVIDERS.get(value["IdentityProvider"].strip().lower())
    if provider is None:
        raise ConfigurationError(f"{file}: IdentityProvider must be AAD or ADFS")
    return Credentials(
        identity_provider=provider,
        tenant_id=value.get("TenantId", ""),
        client_id=value["ClientId"],
        client_secret=Secret(value["ClientSecret"]),
        auth_resource=value.get("AuthResource", ""),
        account_keys={key: Secret(value[key]) for key in value.keys() - _CREDENTIAL_KEYS},
    )


def read_text(file: Path, advice: str) -> str:
    """
    Return a small UTF-8 file's text.

    :raises ConfigurationError: it cannot be read, is too big or is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}: {advice}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: byte {error.start} is not UTF-8: save it so") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{file}: more than {MAX_FILE_BYTES} bytes: is it that file?")
    return text


def read_json(file: Path, advice: str) -> dict[str, Any]:
    """
    Return the JSON object in ``file``.

    :raises ConfigurationError: there is none; the message holds the place and nothing of the text.
    """
    text = read_text(file, advice)
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{file}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{file}: must be one JSON object, {{...}}")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: JSON would silently take the last."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:80]!r} is there twice: keep one")
        value[key] = item
    return value


def _name_the_host(value: dict[str, Any], error: msgspec.ValidationError) -> str:
    """Say which host is meant where msgspec's path only says ``hosts[...]``."""
    hosts = value.get("hosts")
    if not isinstance(hosts, dict):
        return one_line(error, Config)
    for name, host in hosts.items():
        try:
            msgspec.convert({name: host}, type=dict[HostName, Host])
        except msgspec.ValidationError as cause:
            return f"hosts, {name[:80]!r}: {one_line(cause, dict[HostName, Host])}"
    return one_line(error, Config)
