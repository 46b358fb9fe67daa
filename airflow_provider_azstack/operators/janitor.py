"""
The janitor's task.

Owns its place in Airflow; what is ours on a stack, and what may go, the engine decides.
Invariant: with ``dry_run`` nothing on the stack changes.
"""

from typing import Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.operators.base import AzStackOperator, stops_retries


class Janitor(AzStackOperator):
    """
    Find and remove what killed runs left on a stack.

    :param dry_run: only report.
    """

    def __init__(self, *, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.only_report = dry_run

    @stops_retries
    def execute(self, context: Context) -> int:  # noqa: ARG002 - Airflow's signature
        """Return how many leftovers there were."""
        from airflow_provider_azstack.engine import janitor  # noqa: PLC0415 - loads cryptography

        with self.open_stack(mid_work=False) as stack:
            findings = janitor.janitor(stack, self.open_repository(), dry_run=self.only_report)
        for finding in findings:
            self.log.info("%s", finding)
        return len(findings)
