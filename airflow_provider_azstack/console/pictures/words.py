"""
How moments and other people's texts are written on the page.

Owns the cleaning of what comes from stacks and guests; HTML is the template's business.
Invariant: no text on the page has a control character, an order to turn the writing around, the
query of a URL, or more than a line.
"""

from collections.abc import Sequence
from datetime import datetime, tzinfo

from airflow_provider_azstack.secret import scrub

_LONGEST = 160


def clean(text: str) -> str:
    """Return a text fit for one line of the page."""
    line = " ".join(scrub(text).split())
    shown = "".join(char if char.isprintable() else "\ufffd" for char in line)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def moment(at: datetime, zone: tzinfo) -> str:
    """Return a moment by the page's clock."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"


def clock(at: datetime, zone: tzinfo) -> str:
    """Return the time of day by the page's clock."""
    return f"{at.astimezone(zone):%H:%M:%S}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
