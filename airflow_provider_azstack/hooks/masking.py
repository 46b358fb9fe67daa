"""
Tells Airflow's log masker every secret, in each form in which it may turn up.

Owns the list of those forms; knows neither where a secret comes from nor what it opens.
Invariant: a secret is masked before its first use, so no log line can come first.
"""

from urllib.parse import parse_qsl, quote, urlsplit

from airflow.providers.common.compat.sdk import mask_secret

# Parameters of an access signature that open something by themselves.
_SIGNATURES = {"sig", "accesssas"}


def mask(text: str) -> None:
    """Have ``text``, and every signature in it if it is a URL, shown as ``***`` from now on."""
    for form in sorted(forms(text)):
        mask_secret(form)


def forms(text: str) -> set[str]:
    """Return ``text`` raw and percent-encoded, and its signatures likewise."""
    secrets = {text}
    query = urlsplit(text).query if "?" in text else ""
    secrets |= {value for name, value in parse_qsl(query) if name.lower() in _SIGNATURES}
    return {form for secret in secrets for form in (secret, quote(secret, safe="")) if form}
