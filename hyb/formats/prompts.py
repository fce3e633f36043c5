"""Whether a log keeps what people asked and what was answered. Pure.

A log is known by its name or by its first line: a JSON object, or a line that begins with a time. In one, a field that
is called as the content fields of chat requests are called, with text in it, is a prompt that was stored. Looser names
(`input`) count with three words behind them, and so do `prompt:` without quotes and `?prompt=` in an address. Counts
(`"prompt": 12`), empty texts and texts that were taken out (`[redacted]`, `***`) are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_NAME = re.compile(
    r"\.(?:log|jsonl|ndjson)(?:[.-][\w-]+)*$|(?:^|/)(?:stdout|stderr|journal|syslog|audit|access|access_log|error_log)"
    r"(?:\.(?:txt|json|out))?$",
    re.IGNORECASE,
)
_TIMED = re.compile(
    rb"\s*\[?(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\d\d/\w{3}/\d{4}:|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{10,13}\b)"
)
_FIELDS = (
    b"prompt|prompts|completion|content|reasoning_content|reasoning|question|answer|asked|input_text|output_text|"
    b"user_input|user_message|generated_text"
)
_Q = rb"(?:\\{0,3}[\"'])"
_GONE = rb"(?:\\{0,3}[\"']|\[?<?\(?(?:redacted|removed|hidden|omitted|filtered|masked)|\*{3}|\.{3}|-+\\{0,3}[\"'])"
_FIELD = re.compile(
    rb"(?<![\w-])(?:" + _Q + rb"(?P<key>" + _FIELDS + rb")" + _Q + rb"\s*:|"
    rb"(?P<word>prompt|completion|question|answer)\s*[=:])\s*" + _Q + rb"(?!" + _GONE + rb")",
    re.IGNORECASE,
)
_WORDS = rb"[^\W\d_][\w']*(?:[ ,]+[^\W\d_][\w']*[?!.]?){2,}"
_LOOSE = re.compile(
    rb"(?:" + _Q + rb"(?P<key>input|user_query|instruction|utterance|transcript)" + _Q + rb"\s*:\s*"
    rb"(?:\{\s*" + _Q + rb"\w+" + _Q + rb"\s*:\s*)?" + _Q + rb"|(?<![\w-])(?P<word>prompt|question|answer)\s*[=:]\s*)"
    + _WORDS,
    re.IGNORECASE,
)  # fmt: skip
"""Words that other things are called by, too: only with three words of text in them."""
_SAID = re.compile(
    _Q + rb"(?:role|from|type)" + _Q + rb"\s*:\s*" + _Q + rb"(?:user|assistant|human|gpt|model|(?:in|out)put_text|text)"
    + _Q + rb"\s*,\s*" + _Q + rb"(?P<key>text|value|parts)" + _Q + rb"\s*:\s*(?:\[\s*)?"
    rb"(?:\{|" + _Q + rb"(?!" + _GONE + rb"))",
    re.IGNORECASE,
)  # fmt: skip
"""A part of a message, as several APIs and data sets write it."""
_ASKED = re.compile(rb"[?&](?P<key>prompt|question|message)=(?!" + _GONE + rb")[^\s&\"']{8,}", re.IGNORECASE)
"""A question in the address of a request."""
_LIST = re.compile(_Q + rb"(?:messages|prompt|input)" + _Q + rb"\s*:\s*\[\s*(?:\{|" + _Q + rb"(?!" + _Q + rb"))")


def is_log(name: str, head: bytes) -> bool:
    """True for a log, by its name or its first line."""
    if _NAME.search(name):
        return True
    first = head.lstrip().split(b"\n", 1)[0].strip()
    if first.startswith(b"{"):
        try:
            value = json.loads(first)
        except ValueError:
            return False
        return isinstance(value, dict) and "apiVersion" not in value and len(head.strip().splitlines()) > 1
    return bool(_TIMED.match(first))


def find(window: bytes) -> Iterator[tuple[int, str]]:
    """(offset, what) of every prompt or answer in a piece of a log."""
    for pattern in (_FIELD, _LOOSE, _SAID, _ASKED):
        for hit in pattern.finditer(window):
            name = next(n for n in hit.groups() if n).decode().lower()
            yield hit.start(), f"the text of `{name}` is in a log"
    for hit in _LIST.finditer(window):
        yield hit.start(), "the messages of a request are in a log"
