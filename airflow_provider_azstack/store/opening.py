"""
From a URL to a store.

Owns the forms a URL may have; knows no backend's details and keeps no credentials.
Invariant: a URL with a secret in it is refused, and refused without being repeated.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store
from airflow_provider_azstack.store.cloud import KINDS, CloudStore
from airflow_provider_azstack.store.guard import RetryingStore
from airflow_provider_azstack.store.local import LocalStore

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_FORMS = "/absolute/path, file:///absolute/path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix"


def open_store(
    url: str,
    *,
    options: Mapping[str, str | Secret] | None = None,
    create: bool = False,
    budget_seconds: float = 300.0,
) -> Store:
    """
    Open the store at ``url``.

    :param url: an absolute path, ``file://``, ``s3://``, ``az://`` or ``gs://``.
    :param options: credentials and the like, see ``docs/stores.md``; a directory takes none.
    :param create: make a directory that does not exist. Buckets are never created.
    :param budget_seconds: how long one call to a bucket may be retried; short where someone waits.
    :raises ConfigurationError: the URL or an option is wrong, or the directory is not there.
    """
    options = options or {}
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            "a store URL holds no user, password or query: give credentials as options"
        )
    if parts.scheme in KINDS:
        bucket, prefix = _bucket(parts.netloc, parts.path.strip("/"), url)
        store = CloudStore(parts.scheme, bucket, prefix, options=options)
        return RetryingStore(store, budget_seconds=budget_seconds)
    directory = _directory(url)
    if options:
        raise ConfigurationError(f"unknown option {min(options)!r}: a directory takes none")
    if create:
        _make(directory)
    return LocalStore(directory)


def _bucket(bucket: str, prefix: str, url: str) -> tuple[str, str]:
    safe = not prefix or (_PREFIX.fullmatch(prefix) and not {".", ".."} & set(prefix.split("/")))
    if not (_BUCKET.fullmatch(bucket) and safe):
        raise ConfigurationError(f"store URL {url[:80]!r} is not of the form {_FORMS}")
    return bucket, prefix


def _directory(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path) if parts.scheme == "file" and not parts.netloc else url
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ConfigurationError(f"store URL {url[:80]!r} is not of the form {_FORMS}")
    return Path(path)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o770, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"store directory {directory} cannot be created: {error.strerror}"
        ) from error
