"""
The janitor's task.

Owns its place in Airflow; what is ours on a stack, and what may go, the engine decides.
Invariant: with ``dry_run`` nothing on the stack changes.
"""

from typing import Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.operators.base import DRY_RUN, AzStackOperator, stops_retries


class Janitor(AzStackOperator):
    """
    Find and remove what killed runs left on a stack.

    :param dry_run: only report; a run's param of that name wins.
    """

    def __init__(self, *, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.only_report = dry_run

    @stops_retries
    def execute(self, context: Context) -> int:
        """Return how many leftovers there were."""
        from airflow_provider_azstack.engine import janitor  # noqa: PLC0415 - loads cryptography

        only_report = context["params"].get(DRY_RUN, self.only_report)
        with self.open_stack(mid_work=False) as stack:
            return len(janitor.janitor(stack, self.open_repository(), dry_run=only_report))
