"""The pure core of `hyb chat`: what a line means, the conversation and its two file forms, what is shown of an answer.

A conversation never changes: each step gives a new one, so that an answer that fails leaves the old one whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyb.errors import HybError
from hyb.serving.answer import Answer, Timing

COMMANDS = {
    "help": ("", "list the commands"),
    "system": ("[TEXT]", "set the system prompt; without TEXT show it, `-` takes it away"),
    "adapter": ("[NAME]", "ask another model or adapter of the server; without NAME list them"),
    "think": ("[on|off]", "show or hide the reasoning"),
    "stats": ("", "time to the first token, tokens/s, tokens in the context"),
    "retry": ("", "ask the last question again"),
    "clear": ("", "forget what was said; the system prompt stays"),
    "save": ("FILE", "write the chat: .md for people, .json for programs"),
    "load": ("FILE", "go on with a chat that was saved"),
    "quit": ("", "end; so does ^D"),
}
ROLES = ("system", "user", "assistant")
_HEADING = re.compile(r"^(\\*)## (system|user|reasoning|assistant)$")


@dataclass(frozen=True)
class Message:
    """One thing that was said."""

    role: str
    content: str
    thought: str = ""


@dataclass(frozen=True)
class Conversation:
    """What was said so far, in order, without the system prompt."""

    system: str = ""
    said: tuple[Message, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """For the API. A model's reasoning is not told to it again."""
        first = [Message("system", self.system)] if self.system else []
        return [{"role": m.role, "content": m.content} for m in (*first, *self.said)]

    def ask(self, question: str) -> Conversation:
        """With a question at its end."""
        return replace(self, said=(*self.said, Message("user", question)))

    def answered(self, answer: Answer) -> Conversation:
        """With an answer at its end."""
        return replace(self, said=(*self.said, Message("assistant", answer.text, answer.thought)))

    def before_last_question(self) -> tuple[Conversation, str]:
        """What was said before the last question, and that question; ("" when there is none)."""
        for at in range(len(self.said) - 1, -1, -1):
            if self.said[at].role == "user":
                return replace(self, said=self.said[:at]), self.said[at].content
        return self, ""

    def __len__(self) -> int:
        return len(self.said)


def command(line: str) -> tuple[str, str] | None:
    """(command, argument) for a line that begins with one slash; None for a question. `//x` is the question `/x`.

    Raises HybError for a command that there is not.
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    word, _, argument = line[1:].partition(" ")
    hits = [name for name in COMMANDS if name.startswith(word)] if word else []
    if word in COMMANDS or len(hits) == 1:
        return word if word in COMMANDS else hits[0], argument.strip()
    raise HybError(f"there is no command `/{word}`", hint="`/help` lists them; `//` begins a question with a slash")


def help_text() -> str:
    """What `/help` says."""
    rows = [(f"/{name} {argument}".strip(), text) for name, (argument, text) in COMMANDS.items()]
    wide = max(len(usage) for usage, _ in rows)
    more = '^C stops an answer, ^D ends. Three quotes (""") begin and end a question of several lines.'
    return "\n".join([*(f"  {usage.ljust(wide)}  {text}" for usage, text in rows), f"  {more}"])


def brief(timing: Timing) -> str:
    """One line under an answer: `0.05 s to the first token, 62.1 tokens/s, 143 tokens in the context`."""
    if not timing.completion_tokens:
        return "no token came"
    parts = [f"{timing.first:.2f} s to the first token"]
    if timing.rate:
        parts.append(f"{'' if timing.exact else '~'}{timing.rate:.1f} tokens/s")
    if timing.prompt_tokens:
        parts.append(f"{timing.prompt_tokens + timing.completion_tokens} tokens in the context")
    return ", ".join(parts)


def stats(timing: Timing | None, conversation: Conversation) -> str:
    """What `/stats` says."""
    if timing is None:
        return "nothing was asked yet"
    of = "" if timing.exact else " (counted in pieces: the server does not say)"
    known = f"{timing.prompt_tokens}" if timing.prompt_tokens else "not known: the server does not say"
    kept = f", {timing.cached_tokens} of them kept from before" if timing.cached_tokens else ""
    rows = {
        "first token": f"{timing.first:.3f} s",
        "speed": f"{timing.rate:.1f} tokens/s",
        "answer": f"{timing.completion_tokens} tokens in {timing.last:.2f} s{of}",
        "prompt": f"{known}{' tokens' if timing.prompt_tokens else ''}{kept}",
        "context": f"{timing.prompt_tokens + timing.completion_tokens} tokens, {len(conversation)} messages",
    }
    return "\n".join(f"  {name:<12} {value}" for name, value in rows.items())


def timing_dict(timing: Timing) -> dict[str, float | int | bool]:
    """For `--json`."""
    return {
        "ttft_s": round(timing.first, 4),
        "seconds": round(timing.last, 4),
        "tokens_per_s": round(timing.rate, 2),
        "prompt_tokens": timing.prompt_tokens,
        "completion_tokens": timing.completion_tokens,
        "counted_by_server": timing.exact,
    }


# -- files -----------------------------------------------------------------------------------------------------------


def write(conversation: Conversation, model: str, suffix: str) -> str:
    """The chat as a file: JSON for `.json`, Markdown for `.md`. Raises HybError for another suffix."""
    if suffix == ".json":
        return _json(conversation, model)
    if suffix in (".md", ".markdown"):
        return _markdown(conversation, model)
    raise HybError(f"a chat is written as .md or .json, not `{suffix or 'without a suffix'}`")


def read(text: str, suffix: str) -> Conversation:
    """The chat in a file that `write` made. Raises HybError when it is none."""
    if suffix == ".json":
        return _from_json(text)
    if suffix in (".md", ".markdown"):
        return _from_markdown(text)
    raise HybError(f"a chat is read from .md or .json, not `{suffix or 'without a suffix'}`")


def _json(conversation: Conversation, model: str) -> str:
    messages: list[dict[str, str]] = conversation.messages()
    thoughts = [""] * (len(messages) - len(conversation)) + [m.thought for m in conversation.said]
    whole = [{**m, **({"reasoning_content": t} if t else {})} for m, t in zip(messages, thoughts, strict=True)]
    return json.dumps({"model": model, "messages": whole}, ensure_ascii=False, indent=1) + "\n"


def _from_json(text: str) -> Conversation:
    try:
        document = json.loads(text)
        messages = document["messages"] if isinstance(document, dict) else document
        return conversation_of([_message(m) for m in messages])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HybError("this is no chat: a JSON object with `messages` is") from error


def _message(value: Mapping[str, Any]) -> Message:
    role, content, thought = value["role"], value["content"], value.get("reasoning_content", "")
    if role not in ROLES or not isinstance(content, str) or not isinstance(thought, str):
        raise ValueError(role)
    return Message(role, content, thought)


def conversation_of(messages: Sequence[Message]) -> Conversation:
    """A conversation from messages whose first may be the system prompt. Raises ValueError for one elsewhere."""
    system = messages[0].content if messages and messages[0].role == "system" else ""
    said = tuple(messages[1:] if system else messages)
    if any(m.role == "system" for m in said):
        raise ValueError("system")
    return Conversation(system, said)


def _markdown(conversation: Conversation, model: str) -> str:
    blocks = [f"# Chat with {model}"]
    for message in ([Message("system", conversation.system)] if conversation.system else []) + [*conversation.said]:
        if message.thought:
            blocks += ["## reasoning", _escaped(message.thought)]
        blocks += [f"## {message.role}", _escaped(message.content)]
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    """A line that looks like one of our headings gets a backslash; one that has some gets one more."""
    return "\n".join(rf"\{line}" if _HEADING.match(line) else line for line in text.split("\n"))


def _from_markdown(text: str) -> Conversation:
    blocks: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        found = _HEADING.match(line)
        if found and not found[1]:
            blocks.append((found[2], []))
        elif blocks:
            blocks[-1][1].append(line[1:] if found else line)
    messages, thought = [], ""
    for role, lines in blocks:
        content = "\n".join(lines).strip("\n")
        if role == "reasoning":
            thought = content
        else:
            messages.append(Message(role, content, thought))
            thought = ""
    try:
        if messages:
            return conversation_of(messages)
    except ValueError:
        pass
    raise HybError(
        "this is no chat that `/save` wrote", hint="it has headings like `## user`, and one `## system` at most"
    )
