"""
Links from a task to the stack's own portal.

Owns the shape of portal addresses; knows nothing of tasks beyond where they leave the address.
Invariant: a link holds ids only. It is there from a task's first second, not only after its last.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_azstack.model import WorkloadVm

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

PORTAL_KEY = "portal"


class PortalLink(BaseOperatorLink):
    """The VM of a workload (the stack's portal, when it has several) in the stack's portal."""

    name = "Stack portal"

    @property
    def xcom_key(self) -> str:
        """Where Airflow looks the link up; the task pushes it there when it starts."""
        return PORTAL_KEY

    def get_link(self, operator: "BaseOperator", *, ti_key: Any) -> str:  # noqa: ARG002 - theirs
        """Return what the task pushed; Airflow asks for it once more at the task's end."""
        return XCom.get_value(key=PORTAL_KEY, ti_key=ti_key) or ""


def portal_url(stack: str, vms: tuple[WorkloadVm, ...]) -> str:
    """
    Return where a user sees these VMs, or an empty text for an endpoint of another shape.

    :param stack: host name of the ARM endpoint: ``management.<region>.<fqdn>``.
    """
    service, _, rest = stack.partition(".")
    portal = {"management": "portal", "adminmanagement": "adminportal"}.get(service)
    if not portal:
        return ""
    home = f"https://{portal}.{rest}/"
    return home + "#resource" + quote(vms[0].id) if len(vms) == 1 else home
