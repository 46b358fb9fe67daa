"""
The stack that a command speaks to.

Owns the file that describes one: the same fields as the Airflow connection ``azure_stack``, so
that what is documented once, or exported from Airflow, serves here; knows no requests.
Invariant: only the endpoint of that file is ever spoken to.
"""

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Literal

import msgspec

from airflow_provider_azstack.console.arguments import read_json, read_text
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.wording import one_line

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack

_VARIABLE = "AZSTACK_STACK_FILE"


class _Extra(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant_id: str = ""
    subscription_id: str = ""
    ca_bundle: str = ""
    sign_in: Literal["auto", "v1", "v2"] = "auto"
    profile: str = ""
    certificate_path: str = ""
    certificate_private_key: str = ""
    certificate_password: str = ""

    def __repr__(self) -> str:
        return "_Extra(***)"


class StackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach a stack, in the words of the connection: host, login, password, extra."""

    host: str
    login: str
    password: str = ""
    conn_type: Literal["azure_stack"] = "azure_stack"
    extra: _Extra = _Extra()

    def __repr__(self) -> str:
        return f"StackSettings({self.host!r}, ***)"


def add_stack(parser: ArgumentParser) -> None:
    """Declare which stack a command speaks to."""
    parser.add_argument(
        "--stack-file",
        metavar="FILE",
        default=os.environ.get(_VARIABLE, ""),
        help=f"JSON with the fields of an azure_stack connection; default: ${_VARIABLE}",
    )


def read_stack_settings(args: Namespace) -> StackSettings:
    """
    Read ``--stack-file``; the emulator's ``connection.json`` holds such a connection as well.

    :raises ConfigurationError: it is missing, or a field is missing or wrong.
    """
    if not args.stack_file:
        raise ConfigurationError(f"which stack? Give --stack-file or set {_VARIABLE}")
    found = read_json(args.stack_file, "stack")
    try:
        return msgspec.convert(found.get("airflow_connection", found), StackSettings)
    except msgspec.ValidationError as error:
        said = one_line(error, StackSettings)
        raise ConfigurationError(f"stack file {args.stack_file}: {said}") from None


def open_stack(args: Namespace, *, budget_seconds: float = 900.0) -> "Stack":
    """
    Return the signed-in stack; the caller closes it.

    :param budget_seconds: how long one request may be retried.
    """
    # The client loads urllib3 and TLS: not for commands that need no stack.
    from airflow_provider_azstack.arm.client import Credentials, Stack  # noqa: PLC0415
    from airflow_provider_azstack.arm.versions import DEFAULT_PROFILE  # noqa: PLC0415

    settings = read_stack_settings(args)
    extra = settings.extra
    certificate = _certificate(extra)
    if not (settings.password or certificate):
        raise ConfigurationError(f"stack file {args.stack_file} has no password, no certificate")
    credentials = Credentials(
        tenant_id=extra.tenant_id,
        client_id=settings.login,
        secret=None if certificate else Secret(settings.password),
        certificate=certificate,
        certificate_password=Secret(extra.certificate_password) if certificate else None,
    )
    return Stack(
        settings.host,
        credentials,
        ca_bundle=extra.ca_bundle or None,
        sign_in=extra.sign_in,
        profile=extra.profile or DEFAULT_PROFILE,
        retry_budget_seconds=budget_seconds,
    )


def _certificate(extra: _Extra) -> Secret | None:
    if extra.certificate_private_key or not extra.certificate_path:
        return Secret(extra.certificate_private_key) if extra.certificate_private_key else None
    return Secret(read_text(extra.certificate_path, "certificate"))
