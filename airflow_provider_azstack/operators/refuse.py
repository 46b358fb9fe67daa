"""
The task of a DAG whose policies cannot be read.

Owns how a mistake in a policy's file gets to people; knows nothing of policies.
Invariant: it fails, at once and with the mistake, whoever runs it and however often.
"""

from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, Context


class Refuse(BaseOperator):
    """
    Fail with the mistakes of policies.

    :param mistake: in words: what is not done, and why.
    """

    def __init__(self, *, mistake: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mistake = mistake

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow gives it by name
        """:raises AirflowFailException: always; says what to mend."""
        raise AirflowFailException(self.mistake)
