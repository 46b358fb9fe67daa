"""
YAML, and so JSON, that people write: policies, restore requests, fleets.

Owns the syntax and what is said of a mistake in it; knows no key and no meaning.
Invariant: a key that is there twice is refused, because nobody sees which of the two counts.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_azstack.config import read_text
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.wording import one_line

_NEITHER = "neither YAML nor JSON at "
_LONGEST_KEY = 60  # of what was given: it may be anything


def read_document(file: Path, advice: str) -> Any:
    """
    Return what a file of YAML or JSON holds.

    :param advice: what to do when there is no such file.
    :raises ConfigurationError: it cannot be read, or is neither; names the line.
    """
    text = read_text(file, advice)
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader that refuses more
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = one_line(ValueError(error.problem or "not readable"))
        # What cannot be constructed is YAML all the same.
        syntax = "" if isinstance(error, yaml.constructor.ConstructorError) else _NEITHER
        raise ConfigurationError(f"{file}: {syntax}{place}: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a character, a date that no calendar has
        raise ConfigurationError(f"{file}: neither YAML nor JSON: {one_line(error)}") from None
    except RecursionError:
        raise ConfigurationError(f"{file}: nested too deeply") from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - PyYAML's signature
    ) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value[:_LONGEST_KEY]!r} is there twice",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
