"""Commands of ``airflow azstack``, called as their parser calls them."""

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., tuple[Any, Any, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a command; return its state, its JSON and its remarks."""
    common = {
        "verbose": False,
        "output": "json",
        "config": None,
        "stack_conn_id": None,
        "repository_conn_id": None,
        "scratch_group": "",
        "account": "",
    }

    def run(function: Callable[[Namespace], None], **given: Any) -> tuple[Any, Any, str]:
        state: Any = 0
        capsys.readouterr()  # what came before is not the command's
        try:
            function(Namespace(**{**common, **given}))
        except SystemExit as ended:
            state = ended.code
        printed = capsys.readouterr()
        return state, json.loads(printed.out or "null"), printed.err

    return run
