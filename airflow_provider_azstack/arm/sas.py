"""
Shared access signatures that a stack accepts.

Owns the string that is signed; knows no account and asks for no key.
Invariant: the signed version is the profile's. The text is that of "Create a service SAS" for
versions from 2015-04-05 up to, and not including, 2020-12-06. azure-storage-blob signs with its
newest version, which a stack refuses, and adds a field of 2020-12-06 even when told an older one.
"""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta
from urllib.parse import quote, unquote, urlencode, urlsplit

from airflow_provider_azstack.errors import ConfigurationError, Refused
from airflow_provider_azstack.secret import Secret, without_query

START_SKEW = timedelta(minutes=15)
_RESOURCE_IN_STRING_SINCE = "2018-11-09"


def signed_url(
    url: str,
    account: str,
    key: Secret,
    *,
    permissions: str,
    resource: str,
    now: datetime,
    seconds: int,
    version: str,
    snapshot: str = "",
) -> Secret:
    """
    Return the URL of a blob or container with a signature.

    A signature for a blob (``b``) holds for its snapshots too; ``bs``, for one snapshot only,
    might not reach the reference snapshot that a difference is asked against.

    :param resource: ``b`` for a blob, ``c`` for a container.
    :param permissions: letters in the service's order, for example ``"r"`` or ``"rcd"``.
    :param now: by the stack's clock. The signature starts earlier, because clocks differ.
    """
    start, end = _time(now - START_SKEW), _time(now + timedelta(seconds=seconds))
    protocol = "https" if urlsplit(url).scheme == "https" else "https,http"
    canonical = f"/blob/{account}{path_in_account(url, account)}"
    fields = [permissions, start, end, canonical, "", "", protocol, version]
    if version >= _RESOURCE_IN_STRING_SINCE:
        fields += [resource, ""]  # the second is a snapshot's time, for "bs"
    fields += [""] * 5  # overridden answer headers: none
    query = {"sv": version, "sr": resource, "st": start, "se": end, "sp": permissions}
    query |= {"spr": protocol, "sig": _sign(key, "\n".join(fields))}
    if snapshot:
        query = {"snapshot": snapshot, **query}
    return Secret(f"{url}?{urlencode(query, quote_via=quote)}")


def path_in_account(url: str, account: str) -> str:
    """
    Return ``/container/blob``, decoded: the account is in the host name, or else leads the path.

    :raises Refused: the URL is of another account.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (parts.hostname or "").split(".")[0] == account.lower():
        return path
    if path.startswith(f"/{account}/"):
        return path[len(account) + 1 :]
    raise Refused(f"{without_query(url)} is not in the storage account {account}: nothing signed")


def _sign(key: Secret, text: str) -> str:
    try:
        raw = base64.b64decode(key.reveal(), validate=True)
    except ValueError:
        raise ConfigurationError("a storage account key is not Base64: copy it whole") from None
    return base64.b64encode(hmac.new(raw, text.encode(), hashlib.sha256).digest()).decode()


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
