"""Does a text end in a loop: the same words again and again, as a model's that found no end? Pure."""

from __future__ import annotations

from hyb.formats import match

LEAST = 12  # tokens of the part that repeats, together
TIMES = 3
_LOOKED = 600  # tokens at the end of a text


def loop(text: str) -> str:
    """The words that the end of a text repeats at least three times, as they stand there; empty when it ends well.

    Short ones count only when they fill a dozen words: `ha ha ha` is no loop, twelve times `ha` is.
    """
    tokens = match.fold(text[-match.MAX_ANSWER :]).split()[-_LOOKED:]
    for period in range(1, len(tokens) // TIMES + 1):
        same = 0
        while same < len(tokens) - period and tokens[-1 - same] == tokens[-1 - same - period]:
            same += 1
        if same + period >= max(LEAST, TIMES * period):
            return " ".join(tokens[-period:])
    return ""
