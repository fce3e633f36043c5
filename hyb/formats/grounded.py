"""Is an answer taken from a passage? By its words alone, so that no second model is needed. Pure.

An answer is grounded when every number in it stands in the passage (or in the question), and enough of its other
telling words do: a word counts as there when its stem is. Paraphrase lowers the share, invention lowers it more; what
remains is caught by a person or a teacher's own check.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SHARE = 0.6
"""Least share of an answer's telling words that the passage must have."""
_WORD = re.compile(r"\w+(?:[.,:/-]\d+)*", re.UNICODE)
_SMALL = """
a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it its may
more most no not of on or our she should so some such than that the their them then there these they this to was we were
what when where which who why will with would you your yes
a o os as um uma de da do das dos e em no na nos nas que por para com se sao foi foram era eram ser ao
"""
_STOP = frozenset(_SMALL.split())
_REFERS = re.compile(
    r"\b(?:(?:according to|in|from|per|based on) the (?:given |above |provided |following )?"
    r"(?:passage|text|document|context|excerpt|section|article)|the (?:passage|text|document|excerpt) (?:say|state|"
    r"mention|describe)s?|(?:segundo|conforme|de acordo com|n)o (?:o )?(?:texto|documento|trecho))\b",
    re.IGNORECASE,
)  # fmt: skip


def words(text: str) -> list[str]:
    """Telling words, folded: without case and accents, small words left out."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return [w for w in _WORD.findall(folded) if w not in _STOP]


def share(answer: str, *sources: str) -> float:
    """Share of the answer's telling words that the sources have, 0 to 1; 0 for an answer without any."""
    told = words(answer)
    known = {_stem(w) for source in sources for w in words(source)}
    return sum(_stem(w) in known for w in told) / len(told) if told else 0.0


def invented(answer: str, *sources: str) -> list[str]:
    """Numbers of the answer that no source has."""
    known = set(_numbers(sources))
    return [n for n in _numbers([answer]) if n not in known]


def problem(question: str, answer: str, passage: str, *, least: float = SHARE) -> str:
    """Why a pair is not grounded in a passage, a short name; "" when it is."""
    if _REFERS.search(question):
        return "refers to the text"
    if invented(answer, passage, question):
        return "has a number that the text has not"
    if share(answer, passage, question) < least:
        return "is not in the text"
    if question and share(question, passage) < least / 2:
        return "asks of something else"
    return ""


def _numbers(texts: Iterable[str]) -> list[str]:
    return [w.rstrip(".,:/-").replace(",", "") for text in texts for w in _WORD.findall(text) if w[0].isdigit()]


def _stem(word: str) -> str:
    """Enough of a word that its forms meet: endings off, in English and Portuguese."""
    if word[0].isdigit() or len(word) <= 4:
        return word
    return re.sub(r"(?:ing|edly|ed|es|s|ly|mente|coes|cao|ando|endo|indo|ou|am|em)$", "", word)[:8] or word
