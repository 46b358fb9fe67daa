"""
S3 Object Lock: until when an object's current version can be deleted by nobody.

Owns the two requests that ask for and lengthen a retention, by boto3, since obstore has neither;
knows nothing of what the objects mean.
Invariant: a retention is only ever lengthened.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    ObjectNotFound,
    StoreError,
    Throttled,
    Unreachable,
)
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import validate_name

Mode = Literal["GOVERNANCE", "COMPLIANCE"]

# Option of the store -> argument of boto3's client. What else a store knows does not matter here.
_ARGUMENTS = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "region": "region_name",
    "endpoint": "endpoint_url",
    "ca_bundle": "verify",
}
_WITHOUT_LOCK = {"InvalidRequest", "ObjectLockConfigurationNotFoundError"}
_KINDS: dict[int, type[AzStackError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: ObjectNotFound,
    429: Throttled,
    503: Throttled,
}


class ObjectLock(Protocol):
    """A store's retention of single objects."""

    def held_until(self, name: str) -> datetime | None:
        """Return until when the object is held, or None; that may be in the past."""

    def hold(self, name: str, until: datetime) -> None:
        """Hold the object until then; never called to shorten."""


class S3ObjectLock:
    """
    The lock of one bucket.

    :param mode: ``COMPLIANCE``: nobody can shorten it, not even the account's owner.
        ``GOVERNANCE``: who has the special right to bypass it can.
    :param options: those of the store, see ``docs/stores.md``.
    """

    def __init__(
        self, bucket: str, prefix: str, mode: Mode, options: Mapping[str, str | Secret]
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._mode = mode
        self._client = _client(options)

    def held_until(self, name: str) -> datetime | None:
        """
        Return until when the object is held, or None; that may be in the past.

        S3 leaves it out for who has no right ``s3:GetObjectRetention``: that is told as unheld.
        """
        with self._explained("look at the lock of", name):
            answer = self._client.head_object(**self._which(name))
        until: datetime | None = answer.get("ObjectLockRetainUntilDate")
        return until

    def hold(self, name: str, until: datetime) -> None:
        """Hold the object until then; S3 refuses to shorten."""
        retention = {"Mode": self._mode, "RetainUntilDate": until}
        with self._explained("lock", name):
            self._client.put_object_retention(**self._which(name), Retention=retention)

    def _which(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + validate_name(name)}

    @contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

        what = f"cannot {verb} {name} in s3://{self._bucket}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))[:60]
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise _explain(f"{what}: HTTP {status} {code}", status, code) from None
        except BotoCoreError as error:  # its text may quote the endpoint, and nothing secret
            raise Unreachable(f"{what}: {type(error).__name__}") from None


def open_object_lock(url: str, options: Mapping[str, str | Secret], mode: Mode) -> S3ObjectLock:
    """
    Open the lock of the bucket at ``url``.

    :raises ConfigurationError: it is not S3, or boto3 is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise ConfigurationError("objects can be locked in s3:// buckets with Object Lock only")
    return S3ObjectLock(parts.netloc, parts.path.strip("/"), mode, options)


def _client(options: Mapping[str, str | Secret]) -> Any:
    try:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import Config  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "locking needs boto3: pip install 'airflow-provider-azstack[objectlock]'"
        ) from None
    # It logs whole requests at DEBUG, with the session token among the headers.
    logging.getLogger("botocore").setLevel(logging.INFO)
    plain = {k: v.reveal() if isinstance(v, Secret) else v for k, v in options.items()}
    arguments = {_ARGUMENTS[key]: plain[key] for key in _ARGUMENTS if key in plain}
    virtual = plain.get("virtual_hosted_style_request", "").lower() == "true"
    style = "virtual" if virtual else "path" if "endpoint" in plain else "auto"
    config = Config(s3={"addressing_style": style}, retries={"mode": "standard"})
    return boto3.client("s3", config=config, **arguments)


def _explain(message: str, status: int, code: str) -> AzStackError:
    if code in _WITHOUT_LOCK:
        return ConfigurationError(
            f"{message}: the bucket has no Object Lock; it is switched on in the bucket's settings"
        )
    kind = _KINDS.get(status, Unreachable if status >= 500 else StoreError)
    return kind(message)
