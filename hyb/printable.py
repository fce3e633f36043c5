"""Text that may be shown: what strangers wrote (names of models and files, answers, logs), tamed for a terminal.

Escape sequences can retitle a window, overwrite what stands above, or write to the clipboard; turned-round text reads
as what it is not.
"""

from __future__ import annotations

import re

_CONTROL: dict[int, str | None] = dict.fromkeys([*(c for c in range(32) if chr(c) not in "\n\t"), *range(127, 160)])
_CONTROL |= dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])  # turn the text round
_CONTROL |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # half of a character: no stream takes it
_ESCAPED = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")


def printable(text: str) -> str:
    """Text without what would drive the terminal: escape sequences, other control characters, turned-round text."""
    return text.translate(_CONTROL)


def redacted(text: str) -> str:
    """Text with `…` for the password of each address: a hub's, proxy's or index's may stand in the environment so."""
    return _PASSWORD.sub(r"\1…@", text)


def json_text(text: str) -> str:
    """JSON with those characters written as escapes: the same document, harmless to look at."""
    return _ESCAPED.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
