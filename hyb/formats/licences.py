"""The licence gate of a recipe: `licences: [apache-2.0, mit]`, the only ones that what is pulled may have. Pure.

A licence is an SPDX expression (`MIT OR Apache-2.0`, `AND`, parentheses, `WITH`) or a hub's own word (`gemma`,
`llama3.2`); upper and lower case are the same. Of `OR` one side is enough, of `AND` both are needed. A licence that
is not known is never allowed. Source: https://spdx.github.io/spdx-spec/v3.0.1/annexes/spdx-license-expressions/.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:-]*")
_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9][A-Za-z0-9.+:-]*)")
_MOST = 1000  # characters of an expression
UNKNOWN = frozenset({"", "unknown", "other", "none", "noassertion", "unlicensed"})
"""Words that say of a licence no more than that it is not known."""


def parse(value: Any) -> tuple[tuple[str, ...] | None, list[tuple[tuple[int, ...], str]]]:
    """The allow-list and its mistakes as (place below `licences`, text); None where there is none."""
    if not isinstance(value, list) or not value:
        return (), [((), "`licences` is a list of what is allowed, such as [apache-2.0, mit]")]
    mistakes: list[tuple[tuple[int, ...], str]] = []
    for index, word in enumerate(value):
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            mistakes.append(((index,), f"licences: `{word}` is no licence's name, such as `apache-2.0`; one an item"))
        elif word.lower() in UNKNOWN:
            mistakes.append(((index,), f"licences: `{word}` names no licence, so it can't be allowed"))
    return tuple(w.lower() for w in value if isinstance(w, str)), mistakes


def allowed(expression: str, names: Collection[str]) -> bool:
    """True when the allow-list `names` (lower case) lets this licence in."""
    tokens, end = [], 0
    if len(expression) > _MOST:
        return False
    while end < len(expression.rstrip()):
        match = _TOKEN.match(expression, end)
        if not match:
            return False
        tokens.append(match[1].lower())
        end = match.end()
    try:
        said, rest = _either(tokens, names)
    except (IndexError, ValueError, RecursionError):
        return False
    return said and not rest


def _either(tokens: list[str], names: Collection[str]) -> tuple[bool, list[str]]:
    said, rest = _both(tokens, names)
    while rest[:1] == ["or"]:
        more, rest = _both(rest[1:], names)
        said = said or more
    return said, rest


def _both(tokens: list[str], names: Collection[str]) -> tuple[bool, list[str]]:
    said, rest = _one(tokens, names)
    while rest[:1] == ["and"]:
        more, rest = _one(rest[1:], names)
        said = said and more
    return said, rest


def _one(tokens: list[str], names: Collection[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        said, rest = _either(tokens[1:], names)
        if rest[0] != ")":
            raise ValueError("no closing parenthesis")
        return said, rest[1:]
    if tokens[0] in (")", "and", "or", "with"):
        raise ValueError("no licence's name")
    if tokens[1:2] == ["with"]:  # an exception only gives more freedom
        return _known(tokens[0], names) and tokens[2] not in "()", tokens[3:]
    return _known(tokens[0], names), tokens[1:]


def _known(word: str, names: Collection[str]) -> bool:
    return word in names and word not in UNKNOWN
