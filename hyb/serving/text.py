"""From tokens to what a client sees: whole characters, cut at a stop text, reasoning told from answer. Pure.

Every class is fed as tokens come and says what can be sent already; `end` gives what was held back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

OPEN, CLOSE = "<think>", "</think>"
_BROKEN = "�"  # what a decoder shows for bytes that are no whole character yet
_BATCH = 32  # tokens after which a word boundary starts a new window, so that decoding stays linear


class Words:
    """Token ids to text. A character may need several tokens; nothing is said of it before the last one."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._said = 0

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids make certain."""
        self._ids += ids
        text = self._decode(self._ids)
        if text.endswith(_BROKEN):
            return ""
        new, self._said = text[self._said :], len(text)
        if len(self._ids) > _BATCH and text.endswith("\n"):
            self._ids, self._said = [], 0
        return new

    def end(self) -> str:
        """What is left, a broken character as it is."""
        return self._decode(self._ids)[self._said :]


class Stop:
    """Cuts the text at the first of some stop texts; `hit` when one was met. Holds back what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that no stop text can cut any more."""
        if self.hit:
            return ""
        self._held += text
        found = [at for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.hit = True
            sure, self._held = self._held[: min(found)], ""
            return sure
        keep = max((partial(self._held, s) for s in self._stops), default=0)
        sure = self._held[: len(self._held) - keep]
        self._held = self._held[len(sure) :]
        return sure

    def end(self) -> str:
        """What was held back in vain."""
        left, self._held = self._held, ""
        return left


class Thinking:
    """Tells a reasoning model's thought from its answer: ("reasoning_content" | "content", text) in order.

    `inside`: the prompt ended in `<think>`, so the text starts inside a thought. `None`: there is no thought at all
    unless the text begins with `<think>`.
    """

    def __init__(self, inside: bool) -> None:
        self._state = "thought" if inside else "start"
        self._held = ""

    def push(self, text: str) -> Iterator[tuple[str, str]]:
        """What can be sent of the text so far."""
        self._held += text
        if self._state == "start":
            begun = self._held.lstrip()
            if begun.startswith(OPEN):
                self._state, self._held = "thought", begun.removeprefix(OPEN)
            elif OPEN.startswith(begun):  # may become one
                return
            else:
                self._state = "answer"
        if self._state == "thought":
            thought, closed, rest = self._held.partition(CLOSE)
            keep = 0 if closed else partial(self._held, CLOSE)
            sure = thought[: len(thought) - keep]
            if sure:
                yield "reasoning_content", sure
            if not closed:
                self._held = self._held[len(sure) :]
                return
            self._state, self._held = "gap", rest
        if self._state == "gap":  # blank lines between thought and answer belong to neither
            self._held = self._held.lstrip()
            if not self._held:
                return
            self._state = "answer"
        if self._held:
            yield "content", self._held
            self._held = ""

    def end(self) -> Iterator[tuple[str, str]]:
        """What was held back in vain."""
        if self._held:
            yield ("reasoning_content" if self._state == "thought" else "content"), self._held
            self._held = ""


def partial(text: str, mark: str) -> int:
    """How many letters at the end of `text` begin `mark`."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:n]):
            return n
    return 0
