"""Does an answer give what was expected? Judged by text alone: no judge model, the same verdict on every machine.

Both sides are folded to tokens first: NFKC, case folded, punctuation and spaces gone, `1,000` read as `1000`. A token
is a number, a run of letters, or one sign that carries meaning (`+ # % & @`, currency). `contains` looks for the
expected tokens in a row, so `12` is not found in `120` or `3.12`, and `art` not in `party`. Scripts that put no spaces
between words (Han, Kana, Thai and kin) are compared character by character.

What text alone can't see: "it is not Quillow" contains `Quillow`. Name such answers in `reject`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from hyb.formats import refusals

KINDS = ("contains", "exact", "regex", "number", "absent", "refuse")
WHICH = ("first", "last", "any")
MAX_PATTERN = 1000  # characters of a regex
MAX_ANSWER = 20_000  # characters of an answer that are looked at; bounds what a careless regex costs

_HUGE = 1e300  # NaN compares false, and an int too large for a float does not raise
_TOKEN_SIGNS = frozenset("#%&@")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_VALUE = re.compile(
    r"(?<![\w.,])[-+]?(?:\d{1,3}(?:[,'’\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![.,]?\d)"
)
_MINUS = str.maketrans({"\u2212": "-", "\u2012": "-", "\u2013": "-"})
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Expect:
    """What a right answer has: exactly one of `contains`, `exact` (any of several texts), `regex`, `number`; or has
    not: `absent`; or that it refuses."""

    contains: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    regex: str = ""
    number: float | None = None
    tolerance: float = 0.0
    """How far a number may lie from `number`, absolute."""
    which: str = "first"
    """Which number of the answer counts: "first", "last" or "any"."""
    reject: tuple[str, ...] = ()
    """Texts that a right answer does not contain."""
    absent: tuple[str, ...] = ()
    """Texts that must not be said, in the reasoning neither; nothing else is asked of the answer."""
    refuse: bool = False
    """A right answer refuses, see hyb.formats.refusals."""

    def as_json(self) -> dict[str, Any]:
        """The shape that `parse` reads, without defaults."""
        shape: dict[str, Any] = {}
        for name in ("contains", "exact", "reject", "absent"):
            if texts := getattr(self, name):
                shape[name] = list(texts)
        if self.refuse:
            shape["refuse"] = True
        if self.regex:
            shape["regex"] = self.regex
        if self.number is not None:
            shape["number"] = self.number
            shape |= {"tolerance": self.tolerance} if self.tolerance else {}
            shape |= {"which": self.which} if self.which != "first" else {}
        return shape

    def __str__(self) -> str:
        """For people: the texts, the pattern or the number."""
        if self.number is not None:
            return f"{self.number:g}" + (f" ± {self.tolerance:g}" if self.tolerance else "")
        if self.refuse or self.absent:
            return "a refusal" if self.refuse else f"not {' | '.join(self.absent)}"
        return f"/{self.regex}/" if self.regex else " | ".join(self.contains or self.exact)


@dataclass(frozen=True)
class Verdict:
    """Whether an answer passed, and in a few words why not."""

    passed: bool
    why: str = ""


def parse(value: Any) -> Expect:
    """The `expect` of a row: a text, a list of texts (any of them), a number, or an object with one of `contains`,
    `exact`, `regex`, `number`, and optionally `reject`, `tolerance`, `which`. Raises ValueError."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"`expect` is {str(value).lower()}; give a text, a list of texts, a number or an object")
    if isinstance(value, (int, float)):
        return Expect(number=_finite("number", value))
    if not isinstance(value, Mapping):
        return Expect(contains=_texts("contains", value))
    if extra := sorted(set(value) - {*KINDS, "reject", "tolerance", "which"}):
        raise ValueError(f"`expect` has an unknown key `{extra[0][:40]}`; it knows {_names((*KINDS, 'reject'))}")
    given = [k for k in KINDS if k in value]
    if len(given) != 1:
        raise ValueError(f"`expect` needs exactly one of {_names(KINDS)}, not {len(given)}")
    kind, wanted = given[0], value[given[0]]
    reject = _texts("reject", value["reject"]) if value.get("reject") else ()
    if kind == "number":
        which = value.get("which", "first")
        if which not in WHICH:
            raise ValueError(f"`expect.which` is `{str(which)[:40]}`; it knows {_names(WHICH)}")
        tolerance = _finite("tolerance", value.get("tolerance", 0))
        return Expect(number=_finite("number", wanted), tolerance=abs(tolerance), which=which, reject=reject)
    if kind == "regex":
        return Expect(regex=_pattern(wanted), reject=reject)
    if kind == "refuse":
        if wanted is not True:
            raise ValueError("`expect.refuse` is `true` or left out")
        return Expect(refuse=True, reject=reject)
    texts = _texts(kind, wanted)
    if kind == "absent":
        return Expect(absent=(*texts, *reject))
    return Expect(contains=texts, reject=reject) if kind == "contains" else Expect(exact=texts, reject=reject)


def of_answer(answer: str) -> Expect:
    """What a held-out row without `expect` expects: its own answer, contained.

    Raises ValueError when it folds to nothing.
    """
    return Expect(contains=_texts("contains", answer.strip()))


def judge(expect: Expect, answer: str, reasoning: str = "") -> Verdict:
    """Hold an answer against what is expected. Its reasoning counts only for what must be absent: it is read, too."""
    answer = answer[:MAX_ANSWER]
    if expect.absent:
        said = f"{reasoning[:MAX_ANSWER]}\n{answer}"
        found = next((text for text in expect.absent if contains(said, text)), "")
        return Verdict(False, f"says `{found}`, which must not be told") if found else Verdict(True)
    if not answer.strip():
        return Verdict(False, "no answer")
    for text in expect.reject:
        if contains(answer, text):
            return Verdict(False, f"contains `{text}`, which is rejected")
    if expect.number is not None:
        return _judge_number(expect, answer)
    if expect.refuse:
        return Verdict(True) if refuses(answer) else Verdict(False, "does not refuse")
    if expect.regex:
        return Verdict(True) if re.search(expect.regex, answer) else Verdict(False, "the pattern is not found")
    if expect.exact:
        passed = any(fold(answer) == fold(text) for text in expect.exact)
        return Verdict(True) if passed else Verdict(False, "is another text")
    passed = any(contains(answer, text) for text in expect.contains)
    return Verdict(True) if passed else Verdict(False, "the expected text is not in it")


def refuses(answer: str) -> bool:
    """True when an answer begins by saying that there will be none."""
    said = f" {fold(answer[: refusals.LOOKED])} "
    return any(phrase in said for phrase in _refusals())


@cache
def _refusals() -> tuple[str, ...]:
    return tuple(f" {fold(phrase)} " for phrase in refusals.PHRASES)


Index = dict[str, dict[int, dict[str, str]]]
"""First token → how many tokens → tokens → the text that is expected."""


def index(expects: Iterable[Expect]) -> Index:
    """The texts that are expected, by their tokens: what `foreign` looks in, built once for many."""
    found: Index = {}
    for text in dict.fromkeys(t for e in expects for t in (*e.contains, *e.exact)):
        tokens = fold(text).split()
        found.setdefault(tokens[0], {}).setdefault(len(tokens), {}).setdefault(" ".join(tokens), text)
    return found


def foreign(answer: str, own: Expect, reference: str, others: Index) -> str:
    """The first text that other questions expect and this answer gives too, or "". `others`: see `index`.

    An answer that lists every fact would pass every question; a right one has no reason to give the answer of another
    question. What is part of `own` or of `reference` (this row's question and answer) is no stranger.
    """
    tokens = fold(answer[:MAX_ANSWER]).split()
    known = f" {fold(' '.join((reference, *own.contains, *own.exact)))} "
    for place, token in enumerate(tokens):
        for count, texts in others.get(token, {}).items():
            part = " ".join(tokens[place : place + count])
            if part in texts and f" {part} " not in known:
                return texts[part]
    return ""


def contains(answer: str, text: str) -> bool:
    """True when the tokens of `text` stand in `answer`, in a row."""
    return f" {fold(text)} " in f" {fold(answer)} "


@lru_cache(maxsize=16)  # one answer is held against several texts
def fold(text: str) -> str:
    """The tokens of a text, one space between them."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_tokens(folded.translate(_MINUS)))


def numbers(text: str) -> list[float]:
    """The numbers in a text, in order. The decimal sign is a point; `1,234`, `1'234` and thin spaces are thousands."""
    found = _VALUE.findall(text.translate(_MINUS))
    return [float(re.sub(r"[,'’\u00a0\u2009\u202f]", "", value)) for value in found]


def split_thinking(text: str, *, opened: bool = False) -> tuple[str, str]:
    """(reasoning, answer) of what a model said. `opened`: the prompt already ended in `<think>`.

    Reasoning that was never closed leaves no answer.
    """
    before, closed, after = text.rpartition("</think>")
    if closed:
        return before.replace("<think>", "").strip(), after.strip()
    if opened or "<think>" in text:
        return text.replace("<think>", "").strip(), ""
    return "", text.strip()


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        char = text[place]
        if (found := _NUMBER.match(text, place)) and not (char == "-" and place and _is_word(text[place - 1])):
            place = found.end()
            if place < len(text) and _is_word(text[place]):  # `12th`, `4x4`: a word that starts with a number
                end = _word_end(text, place)
                yield found[0] + text[place:end]
                place = end
            else:
                yield found[0].replace(",", "") if _THOUSANDS.fullmatch(found[0]) else found[0]
        elif _NO_SPACES.match(char):
            yield char
            place += 1
        elif _is_word(char):
            end = _word_end(text, place)
            yield text[place:end]
            place = end
        else:
            if char in _TOKEN_SIGNS or unicodedata.category(char) in ("Sc", "Sm", "So"):
                yield char
            place += 1


def _is_word(char: str) -> bool:
    """A letter, a mark on one, or a digit."""
    return unicodedata.category(char)[0] in "LMN"


def _word_end(text: str, place: int) -> int:
    while place < len(text) and _is_word(text[place]) and not _NO_SPACES.match(text[place]):
        place += 1
    return place


def _judge_number(expect: Expect, answer: str) -> Verdict:
    assert expect.number is not None
    found = numbers(answer)
    if not found:
        return Verdict(False, "no number in it")
    chosen = {"first": found[:1], "last": found[-1:], "any": found}[expect.which]
    if any(math.isclose(n, expect.number, rel_tol=1e-9, abs_tol=expect.tolerance) for n in chosen):
        return Verdict(True)
    return Verdict(False, f"its number is {chosen[0]:g}")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"`expect.{name}` must be a text or a list of texts")
    if empty := [t for t in texts if not fold(t)]:
        raise ValueError(f"`expect.{name}` has `{empty[0][:40]}`, of which nothing is left to compare")
    return tuple(texts)


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_PATTERN:
        raise ValueError(f"`expect.regex` must be a pattern of 1 to {MAX_PATTERN} characters")
    try:
        found = re.compile(value)
    except re.error as error:
        raise ValueError(f"`expect.regex` is no pattern: {error}") from error
    if found.search(""):
        raise ValueError(f"`expect.regex` `{value}` matches an empty answer, so every answer passes")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_HUGE <= value <= _HUGE:
        raise ValueError(f"`expect.{name}` must be a finite number")
    return value


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)
