"""Unusual column names → the ones that `hyb.formats.chat_shapes` knows. Pure.

Said by a person (`columns: {question: Frage, answer: Antwort}`), or by an entry of LLaMA-Factory's dataset_info.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyb.formats.chat import RowError, clip

KNOWN = (
    "question", "answer", "context", "input", "system", "history", "messages", "conversations", "reasoning", "chosen",
    "rejected", "label", "tools", "text", "expect",
)  # fmt: skip
"""What a person may map."""
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SAME = ("system", "history", "tools", "chosen", "rejected", "kto_tag")


@dataclass(frozen=True)
class Mapper:
    """`names`: ours → the file's. `turns`: of each turn, the file's keys of role and text, and its words for roles.
    `required`: names whose column must be there."""

    names: Mapping[str, str]
    role_key: str = "from"
    text_key: str = "value"
    roles: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def __call__(self, value: Any) -> Any:
        """A row under our names. Raises RowError for a column that is not there."""
        if not isinstance(value, Mapping):
            return value
        found = {ours: at(value, theirs) for ours, theirs in self.names.items()}
        if missing := [self.names[n] for n in self.required if found[n] is None]:
            has = ", ".join(f"`{clip(str(k))}`" for k in list(value)[:12])
            raise RowError(f"has no column `{clip(missing[0])}`; it has {has or 'none'}")
        kept = {k: v for k, v in found.items() if v is not None}
        for name in ("conversations", "chosen", "rejected"):
            if self.roles and name in kept:
                kept[name] = self._turns(kept[name])
        return kept

    def _turns(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._turns(v) for v in value]
        if not isinstance(value, Mapping):
            return value
        role = value.get(self.role_key)
        rest = {k: v for k, v in value.items() if k not in (self.role_key, self.text_key)}
        return {**rest, "from": self.roles.get(str(role), role), "value": value.get(self.text_key)}


def at(value: Mapping[str, Any], name: str) -> Any:
    """The value of a column; `a.b` is `b` of the object `a` where there is no column of that whole name."""
    if name in value or "." not in name:
        return value.get(name)
    head, _, tail = name.partition(".")
    inner = value.get(head)
    return at(inner, tail) if isinstance(inner, Mapping) else None


def given(columns: Mapping[str, str]) -> Mapper:
    """What a person said: every column but `system`, `context`, `expect` and the like must be there."""
    optional = ("system", "context", "input", "history", "reasoning", "tools", "expect")
    return Mapper(dict(columns), required=tuple(n for n in columns if n not in optional))


def llama_factory(entry: Mapping[str, Any]) -> Mapper:
    """An entry of LLaMA-Factory's dataset_info.json: `formatting`, `columns`, `tags`, `ranking`."""
    columns = entry.get("columns") or {}
    tags = entry.get("tags") or {}
    if entry.get("formatting") == "sharegpt":
        names = {"conversations": columns.get("messages", "conversations")}
        words = {"user": "human", "assistant": "gpt", "observation": "observation", "function": "function_call",
                 "system": "system"}  # fmt: skip
        roles = {str(tags.get(f"{ours}_tag", usual)): usual for ours, usual in words.items()}
        mapped = names | {n: columns[n] for n in _SAME if n in columns}
        return Mapper(mapped, tags.get("role_tag", "from"), tags.get("content_tag", "value"), roles, ("conversations",))
    names = {ours: columns.get(theirs, ours) for theirs, ours in _ALPACA.items()}
    mapped = names | {n: columns[n] for n in _SAME if n in columns}
    if entry.get("ranking"):
        mapped.pop("output")
    return Mapper(mapped, required=("instruction",))
