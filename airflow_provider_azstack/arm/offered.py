"""
What api-versions a stack offers, held against those that its profile makes us use.

Owns the comparison and the advice; the profiles are ``versions``'. Invariant: reads only.
"""

from collections.abc import Iterator, Mapping

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.versions import (
    COMPUTE_TYPES,
    OTHER_TYPES,
    PROFILES,
    versions_of,
)
from airflow_provider_azstack.errors import UnsupportedStack


def check_versions(stack: Stack, subscription: str) -> dict[str, str]:
    """
    Return the api-versions we use for compute; the stack lists each of them.

    :raises UnsupportedStack: it lacks one, named with what it has instead.
    """
    offered = _offered(stack, subscription)
    chosen = versions_of(COMPUTE_TYPES, stack.profile)
    for kind, version in chosen.items():
        has = offered.get(kind, ())
        if version not in has:
            raise UnsupportedStack(
                f"stack {stack.name} has no api-version {version} of {kind}, "
                f"it has {', '.join(has) or 'none'}: {_fitting(offered)}"
            )
    return chosen


def unlisted_versions(stack: Stack, subscription: str) -> Iterator[str]:
    """Yield what we use beside compute and the stack does not list, a line for each."""
    for namespace, kinds in OTHER_TYPES.items():
        offered = _offered(stack, subscription, namespace)
        for kind, version in versions_of(kinds, stack.profile).items():
            if version not in (has := offered.get(kind, ())):
                yield f"{version} of {kind}, it has {', '.join(has) or 'none'}"


def _offered(
    stack: Stack, subscription: str, namespace: str = "Microsoft.Compute"
) -> dict[str, tuple[str, ...]]:
    """Return what the stack really speaks: resource type (lower case) -> api-versions."""
    body = stack.get(f"/subscriptions/{subscription}/providers/{namespace}")
    kinds = [kind for kind in body.get("resourceTypes") or () if isinstance(kind, dict)]
    return {
        f"{namespace}/{kind.get('resourceType')}".lower(): tuple(kind.get("apiVersions") or ())
        for kind in kinds
    }


def _fitting(offered: Mapping[str, tuple[str, ...]]) -> str:
    for name, profile in PROFILES.items():
        wanted = versions_of(COMPUTE_TYPES, profile)
        if all(version in offered.get(kind, ()) for kind, version in wanted.items()):
            return f"set the connection's API profile to {name}"
    return "none of our API profiles fits it"
