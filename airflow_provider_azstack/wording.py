"""
What validation errors say to people: the place, and what is allowed there.

Owns the words for a value that a type refuses; knows no file and no meaning of any key.
Invariant: one line of bounded length, whatever was given; what it does not understand of an error
it passes on as it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

_LONGEST, _HEAD, _TAIL = 320, 200, 100
_LONGEST_WORD = 60  # of what was given: it may be anything

_WRONG_WORD = re.compile(
    r"(?:Invalid enum value (?P<value>.*?)|Object contains unknown field `(?P<key>.*?)`)"
    r"(?P<place> - at `\$(?P<path>[^`]*)`)?",
    re.DOTALL,
)
# What msgspec says in the words of formats -> the same for who writes YAML.
_PLAINLY = {
    "Expected `array`": "Expected a list, such as [a, b]",
    "Expected `object`": "Expected keys and values, such as {a: b}",
    "Invalid RFC3339 encoded datetime": "Expected a time such as 2026-11-02T06:00:00Z",
    "Expected `datetime` with a timezone component": (
        "Expected a time with its zone, such as 2026-11-02T06:00:00Z or ...+01:00"
    ),
}
_STEP = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def one_line(error: Exception, kind: Any = None, words: Mapping[str, str] | None = None) -> str:
    """
    Return a validation error's text fit for one line: it may quote what it was given.

    :param kind: the type that was to be made, to say which words it allows where one is wrong.
    :param words: what to say in place of patterns that only programmers read.
    """
    text = str(error)
    if kind is not None and (found := _WRONG_WORD.fullmatch(text)):
        return _printable(_with_choices(found, kind))
    for formal, plain in _PLAINLY.items():
        text = text.replace(formal, plain)
    for pattern, said in (words or {}).items():
        text = text.replace(f"`str` matching regex {pattern!r}", said)
    return _printable(text if len(text) <= _LONGEST else f"{text[:_HEAD]}...{text[-_TAIL:]}")


def _with_choices(found: re.Match[str], kind: Any) -> str:
    """Say which words are allowed at the place that an error is about."""
    there = list(_types_at(inspect.type_info(kind), found["path"] or ""))
    place = found["place"] or ""
    if found["key"] is not None:
        key, known = found["key"], list(_keys(there))
        return f"unknown key {key[:_LONGEST_WORD]!r}{place}; known are {_listed(key, known)}"
    given = found["value"].strip("'\"")
    allowed = list(_values(there))
    return f"unknown value {given[:_LONGEST_WORD]!r}{place}; allowed are {_listed(given, allowed)}"


def did_you_mean(given: str, choices: Iterable[str], most: int = 1) -> str:
    """Return the question after what is nearest, to be put behind a refusal; "" if nothing is."""
    by_small_letters = {choice.lower(): choice for choice in choices}
    near = get_close_matches(given.lower(), by_small_letters, most)
    named = " or ".join(by_small_letters[one] for one in near)
    return f"; did you mean {named}?" if near else ""


def _listed(given: str, choices: list[str]) -> str:
    return ", ".join(choices) + did_you_mean(given, choices)


def _types_at(root: inspect.Type, path: str) -> Iterator[inspect.Type]:
    """Yield the types that a value at ``path``, such as ``.hosts[...].limit``, may have."""
    found = list(_each(root))
    for step in _STEP.finditer(path):
        found = [one for kind in found for inner in _inside(kind, step[1]) for one in _each(inner)]
    yield from found


def _each(kind: inspect.Type) -> Iterator[inspect.Type]:
    """Yield a type without what is said about it, or all that a union has."""
    if isinstance(kind, inspect.Metadata):
        yield from _each(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _each(one)
    else:
        yield kind


def _inside(kind: inspect.Type, name: str | None) -> Iterable[inspect.Type]:
    """Return what a type has at a field of that name; None: at any of its items."""
    if name is not None:
        fields = kind.fields if isinstance(kind, inspect.StructType) else ()
        return [field.type for field in fields if field.encode_name == name]
    if isinstance(kind, inspect.DictType):
        return [kind.value_type]
    return [kind.item_type] if isinstance(kind, inspect.CollectionType) else []


def _keys(kinds: Iterable[inspect.Type]) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, inspect.StructType):
            yield from (field.encode_name for field in kind.fields)


def _values(kinds: Iterable[inspect.Type]) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, inspect.LiteralType):
            yield from (str(value) for value in kind.values if value != "")  # "" is none


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
