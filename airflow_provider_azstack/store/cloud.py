"""
A store in a bucket: S3 and its work-alikes, Azure Blob, Google Cloud Storage, all through obstore.

Owns the translation between our contract and obstore's; knows nothing of what the bytes mean.
Invariant: what changes the bucket is tried exactly once here, so that "already exists" always tells
of somebody else's object. ``RetryingStore`` repeats, and looks when an answer was lost.

obstore is imported when a store is opened. Its runtime does not survive a fork: open a store in the
process that uses it.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_azstack.errors import ConfigurationError, ShortRead
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import (
    MOST_BYTES,
    Buffer,
    ObjectInfo,
    Store,
    as_views,
    check_size,
    is_valid_name,
    validate_name,
    validate_prefix,
)
from airflow_provider_azstack.store.cloud_errors import explain


class Kind(NamedTuple):
    """How one kind of bucket is opened."""

    extra: str
    class_name: str
    options: frozenset[str]
    fixed: Mapping[str, str]


# The options are the ones that say who we are and where the bucket is. None switches a check off.
KINDS = {
    "s3": Kind(
        "s3",
        "S3Store",
        frozenset(
            [
                "access_key_id",
                "secret_access_key",
                "session_token",
                "region",
                "endpoint",
                "virtual_hosted_style_request",
                "server_side_encryption",
                "sse_kms_key_id",
            ]
        ),
        # Put-if-absent is If-None-Match. Not every work-alike knows the request that deletes many.
        {"conditional_put": "etag", "disable_bulk_delete": "true"},
    ),
    "az": Kind(
        "azureblob",
        "AzureStore",
        frozenset(
            [
                "account_name",
                "account_key",
                "sas_key",
                "tenant_id",
                "client_id",
                "client_secret",
                "authority_host",
                "endpoint",
            ]
        ),
        {},
    ),
    "gs": Kind(
        "gcs", "GCSStore", frozenset({"service_account", "service_account_key", "base_url"}), {}
    ),
}
_COMMON_OPTIONS = frozenset({"ca_bundle"})
_ENDPOINTS = ("endpoint", "base_url", "authority_host")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._/-]*)?")

# A pack of 64 MiB over a line of 1 Mbit/s takes nine minutes.
_TIMEOUT = timedelta(minutes=15)
_CONNECT_TIMEOUT = timedelta(seconds=10)
_READ_TIMEOUT = timedelta(seconds=60)
_BACKOFF = {
    "init_backoff": timedelta(milliseconds=200),
    "max_backoff": timedelta(seconds=5),
    "base": 2,
}
_READ_RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=30), "backoff": _BACKOFF}
_NO_RETRIES = {**_READ_RETRIES, "max_retries": 0}
_LARGEST = 2**63 - 1
# Reading so much for nothing is cheaper than another request.
_GAP_BYTES = 256 * 1024


class CloudStore(Store):
    """
    Objects in a bucket, below a prefix.

    :param scheme: ``s3``, ``az`` or ``gs``.
    :param options: credentials and endpoint, see ``KINDS``; ``ca_bundle`` is a file of PEM
        certificates to trust besides the system's. None is kept here, shown or logged.
    :raises ConfigurationError: the extra is not installed, or an option is unknown or wrong.
    """

    def __init__(
        self,
        scheme: str,
        bucket: str,
        prefix: str = "",
        *,
        options: Mapping[str, str | Secret] | None = None,
    ) -> None:
        self._url = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        kind = KINDS[scheme]
        config, client = _settings(self._url, kind, options or {})
        factory = _obstore_class(kind)
        try:
            self._reads, self._changes = (
                factory(
                    bucket,
                    prefix=prefix or None,
                    config=config,
                    client_options=client,
                    retry_config=retries,
                )
                for retries in (_READ_RETRIES, _NO_RETRIES)
            )
        except Exception:  # noqa: BLE001 # obstore's text may quote a value: credentials are among them
            raise ConfigurationError(
                f"the options for {self._url} do not fit together: check {', '.join(config)}"
            ) from None

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        views = as_views(data)
        needed = sum(view.nbytes for view in views)
        with self._explained("create", validate_name(name), needed):
            # Mode "create" is one request with a precondition, never an upload in parts.
            self._changes.put(name, views or b"", mode="create")

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        with self._explained("read", validate_name(name)):
            answer = self._reads.get(name)  # only the head of the answer was read
            size_bytes = answer.meta["size"]
            check_size(size_bytes, most_bytes, f"{name} in {self._url}")
            data: bytes = answer.bytes().to_bytes()
        if len(data) != size_bytes:
            raise ShortRead(f"{name} in {self._url}: {len(data)} of {size_bytes} bytes came")
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if not length:  # HTTP has no range of nothing
            if not 0 <= offset <= self.info(name).size_bytes:
                raise ShortRead(f"{name} in {self._url} ends before {offset}")
            return b""
        return self.get_ranges(name, [(offset, length)])[0]

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Return stretches: those near each other by one request, several requests at once."""
        validate_name(name)
        for offset, length in ranges:
            if offset < 0 or length < 1 or offset + length > _LARGEST:
                raise ShortRead(f"{name} in {self._url}: nothing has {length} bytes from {offset}")
        starts, lengths = zip(*_stretches(ranges), strict=True)
        with self._explained("read", name):
            # The library's own joining panics where the object ends inside of what was joined.
            found = self._reads.get_ranges(name, starts=starts, lengths=lengths, coalesce=0)
        for start, length, piece in zip(starts, lengths, found, strict=True):
            if len(piece) != length:
                raise ShortRead(
                    f"{name} in {self._url}: {len(piece)} of {length} bytes came from {start}"
                )
        return [_cut(offset, length, starts, found) for offset, length in ranges]

    def info(self, name: str) -> ObjectInfo:
        with self._explained("look at", validate_name(name)):
            return ObjectInfo(name, self._reads.head(name)["size"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._list(validate_prefix(prefix))

    def delete(self, name: str) -> None:
        self.info(name)  # S3 says yes to deleting what is not there
        with self._explained("delete", name):
            self._changes.delete(name)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._explained("list", prefix or "/"):
            for page in self._reads.list(prefix.rstrip("/") or None):
                for entry in page:
                    if is_valid_name(entry["path"]):
                        yield ObjectInfo(entry["path"], entry["size"])

    @contextmanager
    def _explained(self, verb: str, name: str, needed_bytes: int = 0) -> Iterator[None]:
        from obstore.exceptions import BaseError  # noqa: PLC0415 # heavy, see the module's docstring

        try:
            yield
        except (BaseError, OSError) as error:
            # obstore's text holds the request's URL, and that may hold a signature.
            raise explain(error, verb, f"{name} in {self._url}", needed_bytes) from None


def _stretches(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what to read for some ranges: neighbours by one request, none next to another."""
    start, end = min(ranges)[0], 0
    for offset, length in sorted(ranges):
        if end and offset - end > _GAP_BYTES:
            yield start, end - start
            start = offset
        end = max(end, offset + length)
    yield start, end - start


def _cut(offset: int, length: int, starts: Sequence[int], found: Sequence[Any]) -> bytes:
    """Return one of the ranges out of the stretches that were read."""
    number = bisect_right(starts, offset) - 1
    at = offset - starts[number]
    return bytes(memoryview(found[number])[at : at + length])


def _obstore_class(kind: Kind) -> Any:
    try:
        import obstore.store  # noqa: PLC0415 # heavy, see the module's docstring
    except ImportError:
        raise ConfigurationError(
            "this kind of store needs obstore: "
            f"pip install 'airflow-provider-azstack[{kind.extra}]'"
        ) from None
    return getattr(obstore.store, kind.class_name)


def _settings(
    url: str, kind: Kind, options: Mapping[str, str | Secret]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what obstore calls config and client options."""
    known = kind.options | _COMMON_OPTIONS
    if unknown := sorted(set(options) - known):
        raise ConfigurationError(
            f"unknown option {unknown[0]!r} for {url}: known are {', '.join(sorted(known))}"
        )
    config = {
        key: value.reveal() if isinstance(value, Secret) else str(value)
        for key, value in options.items()
        if key not in _COMMON_OPTIONS
    }
    for key in _ENDPOINTS:
        _check_endpoint(url, key, config.get(key))
    client: dict[str, Any] = {
        "timeout": _TIMEOUT,
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
        # Only where the user wrote http:// himself.
        "allow_http": any(config.get(key, "").startswith("http://") for key in _ENDPOINTS),
    }
    if bundle := options.get("ca_bundle"):
        client["root_certificate"] = _certificates(url, str(bundle))
    return {**kind.fixed, **config}, client


def _check_endpoint(url: str, key: str, endpoint: str | None) -> None:
    # Anything else makes the library panic instead of failing.
    if endpoint is not None and not (_ENDPOINT.fullmatch(endpoint) and urlsplit(endpoint).hostname):
        raise ConfigurationError(
            f"option {key!r} for {url} must be https://host[:port][/path], "
            "without user, password or query"
        )


def _certificates(url: str, bundle: str) -> bytes:
    try:
        content = Path(bundle).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"ca_bundle {bundle} for {url} cannot be read: {error.strerror}"
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise ConfigurationError(f"ca_bundle {bundle} for {url} holds no PEM certificate")
    return content
