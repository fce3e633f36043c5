"""JSON from outside, where two readers must never see two things: no key twice, no NaN, a limit on bytes and depth.

Python's own reader lets the last of two equal keys win; another reader takes the first, and a signature covers both.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 64


def load(data: bytes, most: int) -> Any:
    """The value of a JSON document of at most `most` bytes. Raises ValueError, with words, for anything else."""
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    try:
        value = json.loads(data.decode(), object_pairs_hook=once, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise ValueError("it is no UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    _shallow(value)
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, for `object_pairs_hook`. Raises ValueError for a key that stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
