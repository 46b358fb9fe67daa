"""
Tells Airflow's log masker every secret, in each form in which it may turn up.

Owns the list of those forms; knows neither where a secret comes from nor what it opens.
Invariant: a secret is masked before its first use, so no log line can come first.
"""

import json
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit

# Not from common-compat: the versions that Airflow 3.2 and 3.3 came with do not have it there.
from airflow.sdk.log import mask_secret

# Parameters of an access signature that open something by themselves.
_SIGNATURES = {"sig", "accesssas"}


def mask(text: str) -> None:
    """Have ``text``, and every signature in it if it is a URL, shown as ``***`` from now on."""
    for form in sorted(forms(text)):
        mask_secret(form)


def forms(text: str) -> set[str]:
    """
    Return ``text`` raw, percent-encoded and escaped, and its signatures likewise.

    Quotes, line ends and letters beyond ASCII look different within JSON, or a text's ``repr``.
    """
    secrets = {text}
    query = urlsplit(text).query if "?" in text else ""
    secrets |= {value for name, value in parse_qsl(query) if name.lower() in _SIGNATURES}
    return {form for secret in secrets for form in _spellings(secret) if form}


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield repr(secret)[1:-1]
    for is_ascii in (False, True):
        yield json.dumps(secret, ensure_ascii=is_ascii)[1:-1]
