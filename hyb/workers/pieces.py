"""Which characters each token of a text is, and so which tokens the trained parts of an answer are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

IGNORED = -100


def texts(tokenizer: Any, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds to those before it; of several that are one character, the last has it.

    `before`: what `ids` stand behind. A token is decoded with its neighbour before it: SentencePiece's decoders take
    the first one's space away.
    """
    found: list[str] = []
    every = [*before[-1:], *ids]
    start, told = 0, len(every) - len(ids)  # the text of all before `told` is known; decoding begins at `start`
    for end in range(told + 1, len(every) + 1):
        known, text = (tokenizer.decode(every[start:n], clean_up_tokenization_spaces=False) for n in (told, end))
        if text.endswith("\ufffd") and end - told < 8:  # the character goes on in the next token
            found.append("")
            continue
        found.append(text[len(known) :])
        start, told = told, end
    return found


def masked(
    tokenizer: Any, ids: Sequence[int], content: str, spans: Sequence[Sequence[int]], before: Sequence[int] = ()
) -> list[int]:
    """Labels of an answer of which only `spans` [begin, end) of its `content` are learnt. `before`: see `texts`.

    A token is learnt when its first character is, or its first behind spaces: ` word` is a token. What stands around
    the content (the end of the turn) is learnt as well. Raises ValueError where the content is not found in what the
    tokens say.
    """
    pieces = texts(tokenizer, ids, before)
    start = "".join(pieces).rfind(content)
    if start < 0:
        raise ValueError("the parts of its answer that are to be learnt can't be found among its tokens")
    labels, place = [], -start
    for token, piece in zip(ids, pieces, strict=True):
        first = place + len(piece) - len(piece.lstrip()) if piece.strip() else place
        inside = 0 <= first < len(content)
        labels.append(token if not inside or any(a <= first < b for a, b in spans) else IGNORED)
        place += len(piece)
    return labels
