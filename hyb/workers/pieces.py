"""Which characters each token of a text is, and so which tokens the trained parts of an answer are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

IGNORED = -100


def texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; of several that are one character, the last has it."""
    found, held = [], []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(held) < 8:  # the character goes on in the next token
            found.append("")
            continue
        found.append(text)
        held = []
    return found


def masked(tokenizer: Any, ids: Sequence[int], content: str, spans: Sequence[Sequence[int]]) -> list[int]:
    """Labels of an answer of which only `spans` [begin, end) of its `content` are learnt.

    A token is learnt when its first character is; what stands around the content (the end of the turn) is learnt as
    well. Raises ValueError where the content is not found in what the tokens say.
    """
    pieces = texts(tokenizer, ids)
    start = "".join(pieces).rfind(content)
    if start < 0:
        raise ValueError("the parts of its answer that are to be learnt can't be found among its tokens")
    labels, place = [], -start
    for token, piece in zip(ids, pieces, strict=True):
        inside = 0 <= place < len(content)
        labels.append(token if not inside or any(a <= place < b for a, b in spans) else IGNORED)
        place += len(piece)
    return labels
