"""
The task of a policy that cannot be read.

Owns how a mistake in a policy's file gets to people; knows nothing of policies.
Invariant: it fails, at once and with the mistake, whoever runs it and however often.
"""

from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, Context


class RefusePolicy(BaseOperator):
    """Fail with the mistake that a policy's file has."""

    def __init__(self, *, mistake: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mistake = mistake

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow gives it by name
        """:raises AirflowFailException: always; says what to mend."""
        raise AirflowFailException(f"nothing is backed up by this policy: {self.mistake}")
