"""From chat rows to token ids, with a label at every token that the assistant has to say, and nowhere else.

A trained answer is encoded as serving will meet it: the template's prompt up to its generation prompt, then the raw
answer, then the token that ends the turn; no token is of both prompt and answer. The rendered conversation is never
searched for the answer: templates of reasoning models (DeepSeek-R1) cut everything before `</think>` out of it, and
would train an answer that starts where no generation starts. A family with pinned templates (`hyb.templates`) has its
answers written by its training template, which must begin with that very prompt.

Turns of one conversation share a sequence when the template renders the earlier ones as they were trained; otherwise
each trained turn gets a sequence of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from hyb import templates
from hyb.workers import pieces
from hyb.workers.protocol import Failed

IGNORED = pieces.IGNORED
"""The label of a token that carries no loss."""

SHOWN = 50  # mistakes

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
_MARK = "hybanswer"


@dataclass(frozen=True)
class Example:
    """One sequence: token ids, and for each of them itself or IGNORED. `row`: the number of its row, from 0."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    where: str
    row: int = 0


@dataclass(frozen=True)
class Encoded:
    """All sequences of a data set; `skipped` and `truncated` say where rows were longer than allowed."""

    examples: tuple[Example, ...]
    skipped: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()


class Encoder:
    """Encodes rows for one tokenizer. `stops`: ids that end generation; `think`: see `hyb.stages.tune.Spec`.

    Raises Failed when the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, stops: list[int], think: str = "") -> None:
        self.tokenizer = tokenizer
        self.think = think
        template = tokenizer.chat_template
        if not template:
            raise Failed(
                "the model's tokenizer has no chat template, so nobody knows how to write a conversation for it",
                hint="take an instruct model, or put a `chat_template.jinja` into the model folder",
            )
        self.pinned = templates.pair_of(template)
        if self.pinned:
            tokenizer.chat_template = self.pinned.inference
        self.reasons = "think>" in str(template)
        try:
            prompt, whole = self._prompt([_USER]), self._render([_USER, {"role": "assistant", "content": _MARK}], False)
        except ValueError as error:
            raise Failed(f"the model's chat template can't write a question and its answer: {error}") from error
        before, _, after = whole.rpartition(_MARK)
        # what the template puts between prompt and answer (a space, for some) belongs to what the model says
        alone = self._ids(_MARK)
        self.first = self._ids("\n" + _MARK)[-len(alone) :] != alone
        """Whether the tokenizer writes a text's beginning in its own way (SentencePiece: with a space before it)."""
        self.lead = before.removeprefix(prompt) if before.startswith(prompt) and not self.reasons else ""
        self.end = self._end_of_turn(self._ids(after), stops)

    def row(self, row: dict[str, Any]) -> list[Example]:
        """The sequences of one row of any kind (`hyb.formats.chat`); none for an answer that was judged bad.

        Raises ValueError with what is wrong with it.
        """
        if row.get("label") is False:
            return []
        if "messages" not in row:
            return [self._plain(row)]
        examples = self._conversation(row)
        return [self._unmasked(e, row) for e in examples] if row.get("unmask") else examples

    def _plain(self, row: dict[str, Any]) -> Example:
        """A row without messages: no template, and of tokens not even the tokenizer."""
        if "tokens" in row:
            ids, labels = row["tokens"]["ids"], row["tokens"]["labels"]
            if too_high := [i for i in (*ids, *labels) if i >= len(self.tokenizer)]:
                raise ValueError(f"token {too_high[0]} is none of this tokenizer, which has {len(self.tokenizer)}")
            return Example(tuple(ids), tuple(labels), where(row))
        if "text" in row:
            ids = [*self.tokenizer.encode(row["text"]), self.end]
            return Example(tuple(ids), tuple(ids), where(row))
        ids, labels = [], []
        for segment in row["segments"]:
            found = self._ids(segment["text"])
            ids += found
            labels += found if segment["train"] else [IGNORED] * len(found)
        return Example(tuple(ids), tuple(labels), where(row))

    def _unmasked(self, example: Example, row: dict[str, Any]) -> Example:
        """Every token is trained but the system prompt's."""
        first = row["messages"][:1]
        system = self._ids(self._render(first, False)) if first[0]["role"] == "system" else []
        start = len(system) if list(example.ids[: len(system)]) == system else 0
        return Example(example.ids, (IGNORED,) * start + example.ids[start:], example.where)

    def _conversation(self, row: dict[str, Any]) -> list[Example]:
        examples: list[Example] = []
        ids: list[int] = []
        labels: list[int] = []
        messages = row["messages"]
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or not message.get("train", True):
                continue
            text = self._prompt(messages[:i], row.get("tools"))
            prompt = self._ids(text)
            if message.get("tool_calls") and not self.pinned:
                answer = self._calls(messages[: i + 1], text, row.get("tools"))
            else:
                answer = self._answer(messages[: i + 1], text, row.get("tools"))
            spans = message.get("spans")
            learnt = pieces.masked(self.tokenizer, answer, message["content"], spans, prompt) if spans else answer
            if prompt[: len(ids)] != ids:
                examples.append(Example(tuple(ids), tuple(labels), where(row)))
                ids, labels = [], []
            labels += [IGNORED] * (len(prompt) - len(labels)) + learnt
            ids = prompt + answer
        if not ids:
            raise ValueError("no answer of the assistant to learn from")
        return [*examples, Example(tuple(ids), tuple(labels), where(row))]

    def _answer(self, messages: list[dict[str, Any]], prompt: str, tools: Any = None) -> list[int]:
        """Ids of the last message, an answer to `prompt`, and its end of turn."""
        reasoning, content = thought(messages[-1]) if self.reasons else _apart(messages[-1])
        calls = messages[-1].get("tool_calls")
        if not content.strip() and not calls:
            raise ValueError("an answer is empty")
        if not self.reasons and self.think != "keep":
            if reasoning and not self.think:
                raise ValueError("it has reasoning, but the model's template has no place for it")
            return self._said(prompt, self.lead + content)
        if not reasoning.strip() and not self.think and not calls:
            raise ValueError("the model's template asks for reasoning, and the answer has none")
        reasoning = "" if self.think == "empty" else reasoning.strip("\n")
        if self.pinned:
            last = {**messages[-1], "content": content, "reasoning_content": reasoning}
            return self._written([*messages[:-1], last], prompt, self.pinned.training, tools)
        if not self.reasons and not reasoning:
            return self._said(prompt, self.lead + content)
        opening = "" if prompt.endswith("<think>\n") else "\n" if prompt.endswith("<think>") else "<think>\n"
        return self._said(prompt, f"{opening}{reasoning}\n</think>\n\n{content}")

    def _said(self, prompt: str, text: str) -> list[int]:
        """Ids of what is said to `prompt`, and the end of the turn. Raises ValueError where the text holds that end."""
        ids = self._after(prompt, text)
        if self.end in ids:
            token = self.tokenizer.decode([self.end])
            raise ValueError(f"its answer holds `{token}`, with which this model ends an answer; take it out")
        return [*ids, self.end]

    def _after(self, prompt: str, text: str) -> list[int]:
        """Ids of a text that stands behind `prompt`."""
        if self.first:
            before, both = self._ids(prompt), self._ids(prompt + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self._ids(text)

    def _written(self, messages: list[dict[str, Any]], prompt: str, template: str, tools: Any) -> list[int]:
        """Ids of what the training template writes behind `prompt`; its last is the end of turn."""
        text = self._render(messages, False, tools, template)
        if not text.startswith(prompt):
            raise ValueError("the training template does not begin with what the model is asked with")
        return self._after(prompt, text[len(prompt) :])

    def _calls(self, messages: list[dict[str, Any]], prompt: str, tools: Any) -> list[int]:
        """Ids of an answer that calls tools, as the template writes it after `prompt`, and its end of turn."""
        text, called = self._render(messages, False, tools), messages[-1]["tool_calls"]
        if not text.startswith(prompt) or any(c["function"]["name"] not in text[len(prompt) :] for c in called):
            raise ValueError("the model's template does not write a tool call where an answer begins")
        ids = self._after(prompt, text[len(prompt) :])
        last = max((n for n, token in enumerate(ids) if token == self.end), default=None)
        return ids[: last + 1] if last is not None else [*ids, self.end]

    def _prompt(self, messages: list[dict[str, Any]], tools: Any = None) -> str:
        return self._render(messages, True, tools)

    def _render(self, messages: list[dict[str, Any]], prompt: bool, tools: Any = None, template: str = "") -> str:
        keys = (*_KEYS, "reasoning_content") if template else _KEYS
        plain = [{k: m[k] for k in keys if m.get(k) is not None} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                plain, tools=tools, chat_template=template or None, tokenize=False, add_generation_prompt=prompt
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the chat template does not take it: {error}") from error
        return str(text)

    def _ids(self, text: str) -> list[int]:
        # the template writes BOS itself: adding special tokens would double it
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _end_of_turn(self, after: list[int], stops: list[int]) -> int:
        """The token after an answer that generation stops at; else the first special one; else EOS."""
        special = set(self.tokenizer.all_special_ids)
        for wanted in (set(stops), special):
            for token in after:
                if token in wanted:
                    return token
        if self.tokenizer.eos_token_id is None:
            raise Failed("the model's tokenizer has no end-of-sequence token", hint="take an instruct model")
        return int(self.tokenizer.eos_token_id)


_USER = {"role": "user", "content": "Hello"}


def encode(
    rows: list[dict[str, Any]], encoder: Encoder, *, max_length: int, long: str, context: int | None = None
) -> Encoded:
    """Encode all rows. `long`: what happens to a sequence over `max_length` tokens: "error", "skip" or "truncate".
    `context`: most tokens that the model takes, when it is that which limits them.

    Raises Failed: all mistakes together, each with file, line and id.
    """
    if not rows:
        raise Failed("the data set has no row to train on")
    wrong: list[str] = []
    too_long: list[str] = []
    cut: list[str] = []
    examples: list[Example] = []
    for number, row in enumerate(rows):
        try:
            found = [replace(example, row=number) for example in encoder.row(row)]
        except ValueError as error:
            wrong.append(f"{where(row)}: {error}")
            continue
        for example in found:
            if len(example.ids) <= max_length:
                examples.append(example)
                continue
            shorter = replace(example, ids=example.ids[:max_length], labels=example.labels[:max_length])
            if long == "truncate" and any(label != IGNORED for label in shorter.labels):
                examples.append(shorter)
                cut.append(example.where)
            else:
                too_long.append(f"{example.where}: {len(example.ids)} tokens")
    _refuse(wrong, too_long if long == "error" else [], max_length, context)
    if not examples and not too_long:
        raise Failed("no row is left to train on: every answer was judged bad", hint="`label: true` rows are trained")
    if not examples:
        hint = _shorten(context) if context else "raise `max_length`"
        raise Failed(f"no row is left to train on: all are longer than {max_length} tokens", hint=hint)
    return Encoded(tuple(examples), tuple(too_long), tuple(cut))


def thought(message: dict[str, Any]) -> tuple[str, str]:
    """(reasoning, answer) of a message, also where the answer's text begins with `<think>…</think>`."""
    reasoning, content = _apart(message)
    if not reasoning and (found := _THOUGHT.fullmatch(content)):
        reasoning, content = found.groups()
    return reasoning, content


def _apart(message: dict[str, Any]) -> tuple[str, str]:
    return message.get("reasoning") or "", message.get("content") or ""


def where(row: dict[str, Any]) -> str:
    """`file:line (id)` of a row, as far as it is known."""
    meta = row.get("meta") or {}
    place = f"{meta.get('source', 'train.jsonl')}:{meta.get('line', '?')}"
    return f"{place} ({row['id']})" if row.get("id") else place


def first(lines: list[str]) -> list[str]:
    """As many as a person reads."""
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]


def _shorten(context: int) -> str:
    return (
        f"{context} tokens are all that the model takes: shorten the rows, or choose `long: skip` or `long: truncate`"
    )


def _refuse(wrong: list[str], too_long: list[str], max_length: int, context: int | None) -> None:
    if wrong:
        hint = ""
        if any("reasoning" in line for line in wrong):
            hint = (
                "choose: `think: keep` keeps reasoning where there is some, `think: empty` trains answers without it, "
                "`think: generate` has the model write it"
            )
        raise Failed(f"{len(wrong)} row(s) can't be trained", hint=hint, details=first(wrong + too_long))
    if too_long and context:
        raise Failed(
            f"{len(too_long)} row(s) are longer than the model's context of {context} tokens",
            hint=_shorten(context), details=first(too_long),
        )  # fmt: skip
    if too_long:
        raise Failed(
            f"{len(too_long)} row(s) are longer than `max_length: {max_length}` tokens",
            hint="raise `max_length` (memory grows with it), or choose `long: skip` or `long: truncate`",
            details=first(too_long),
        )
