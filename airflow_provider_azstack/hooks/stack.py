"""
The connection type ``azure_stack``: from an Airflow connection to a signed-in stack.

Owns the meaning of the connection's fields; knows nothing of what is asked of the stack.
Invariant: only the configured endpoint is ever spoken to; no field falls back to public Azure.
"""

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_azstack.errors import AzStackError
from airflow_provider_azstack.hooks.connections import WAITING_SECONDS, Fields, fields_of
from airflow_provider_azstack.hooks.masking import mask
from airflow_provider_azstack.speed import counted

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack

_SIGN_INS = ("auto", "v1", "v2")
_FIELDS = frozenset(
    {
        "tenant_id",
        "subscription_id",
        "ca_bundle",
        "sign_in",
        "profile",
        "certificate_path",
        "certificate_private_key",
        "certificate_password",
        "secret_account_keys",
    }
)


class AzureStackHook(BaseHook):
    """
    Speak to one Azure Stack Hub stamp.

    :param azure_stack_conn_id: host = ARM endpoint, login = client id, password = client secret.
    """

    conn_name_attr = "azure_stack_conn_id"
    default_conn_name = "azure_stack_default"
    conn_type = "azure_stack"
    hook_name = "Azure Stack Hub"

    def __init__(self, azure_stack_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.azure_stack_conn_id = azure_stack_conn_id

    def get_conn(self, *, budget_seconds: float = 900.0, mid_work: bool = False) -> "Stack":
        """
        Return the stack; the caller closes it.

        :param budget_seconds: how long one request may be retried; short where someone waits.
        :param mid_work: so long also where the stack was not heard of yet.
        :raises ConfigurationError: a field is missing or wrong.
        """
        # The client loads urllib3: not while DAG files are parsed.
        from airflow_provider_azstack.arm.client import Credentials, Stack  # noqa: PLC0415
        from airflow_provider_azstack.arm.versions import DEFAULT_PROFILE  # noqa: PLC0415

        fields = self._fields()
        certificate = fields.secret("certificate_private_key") or fields.secret_file(
            "certificate_path"
        )
        secret = fields.password()
        if not (secret or certificate):
            raise fields.error("has neither a client secret nor a certificate")
        credentials = Credentials(
            tenant_id=fields.text("tenant_id"),
            client_id=fields.standard("login", "client id"),
            secret=None if certificate else secret,
            certificate=certificate,
            certificate_password=fields.secret("certificate_password"),
        )
        return Stack(
            fields.standard("host", "Resource Manager endpoint"),
            credentials,
            ca_bundle=fields.text("ca_bundle") or None,
            sign_in=fields.text("sign_in", choices=_SIGN_INS),  # type: ignore[arg-type]
            profile=fields.text("profile") or DEFAULT_PROFILE,
            account_keys=fields.secrets("secret_account_keys"),
            retry_budget_seconds=budget_seconds,
            mid_work=mid_work,
            on_secret=mask,
        )

    @property
    def subscription_id(self) -> str:
        """The subscription to use where a policy names none; may be empty."""
        return self._fields().text("subscription_id")

    def test_connection(self) -> tuple[bool, str]:
        """Sign in and list the subscriptions, for the button in the connection form."""
        try:
            with self.get_conn(budget_seconds=WAITING_SECONDS) as stack:
                count = sum(1 for _ in stack.subscriptions())
        except AzStackError as error:
            return False, str(error)
        return True, f"signed in; {counted(count, 'subscription')} visible"

    def _fields(self) -> Fields:
        return fields_of(self.azure_stack_conn_id, self.conn_type, _FIELDS)
