"""The trust policy as a person writes it. Pure; keys are files beside it, and are read elsewhere.

    hyb-trust: 1
    keys:
      lab-2027: {file: lab-2027.pub}
      lab-2026: {file: lab-2026.pub, expires: 2027-02-01}
      stolen:   {file: stolen.pub, revoked: true}
    rules:
      - {pattern: "quickstart/*", keys: [lab-2027, lab-2026], mode: enforce}
      - {pattern: "hf://*", keys: [lab-2027], mode: warn}
    default: off

The first rule whose pattern fits a name decides for it; `*` stands for anything, `/` too. `default` is what holds for
what no rule names, and has to be said: `enforce` lets nothing in that no rule lets in.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from hyb.formats import yaml_lines

VERSION = 1
MODES = ("off", "warn", "enforce")
_TOP, _KEY, _RULE = ("hyb-trust", "keys", "rules", "default"), ("file", "pem", "expires", "revoked"), (
    "pattern", "keys", "mode")  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A key that may be trusted: its file (beside the policy) or its PEM. Neither from `expires` on nor if revoked."""

    name: str
    file: str = ""
    pem: str = ""
    expires: date | None = None
    revoked: bool = False
    line: int = 0


@dataclass(frozen=True)
class Rule:
    """Names that fit `pattern` need a signature by one of `keys`."""

    pattern: str
    keys: tuple[str, ...]
    mode: str


@dataclass(frozen=True)
class Trust:
    """A whole policy."""

    keys: Mapping[str, Key]
    rules: tuple[Rule, ...]
    default: str

    def rule(self, name: str) -> Rule | None:
        """The first rule that fits a name."""
        return next((r for r in self.rules if fnmatch.fnmatchcase(name, r.pattern)), None)

    def rules_for(self, names: Iterable[str]) -> list[Rule]:
        """The rules for something of several names: all that any of them calls for; the default when none does."""
        found = [rule for name in names if (rule := self.rule(name))]
        return list(dict.fromkeys(found)) or [Rule("(default)", (), self.default)]


def parse(text: str) -> tuple[Trust, list[tuple[int, str]]]:
    """The policy and its mistakes as (line, text), sorted. Raises yaml_lines.YamlError for what is no YAML."""
    document = yaml_lines.load(text)
    reader = _Reader(document)
    value = document.value if isinstance(document.value, dict) else {}
    if not value:
        reader.wrong((), "a trust policy is a mapping with `hyb-trust`, `keys`, `rules` and `default`")
    reader.known(value, _TOP, ())
    if value and value.get("hyb-trust") != VERSION:
        reader.wrong(("hyb-trust",), f"the first key is `hyb-trust: {VERSION}`")
    keys = reader.keys(value.get("keys", {}))
    rules = reader.rules(value.get("rules", []), keys)
    default = value.get("default")
    if value and default not in MODES:
        reader.wrong(("default",), f"`default` says what holds for all other names: one of {', '.join(MODES)}")
    return Trust(keys, rules, str(default)), sorted([*document.mistakes, *reader.mistakes])


class _Reader:
    """Collects mistakes with their lines."""

    def __init__(self, document: yaml_lines.Document) -> None:
        self.lines, self.mistakes = document.lines, list[tuple[int, str]]()

    def wrong(self, where: yaml_lines.Path, text: str) -> None:
        """Note a mistake at a place, or at the nearest thing around it."""
        self.mistakes.append((self.line(where), text))

    def line(self, where: yaml_lines.Path) -> int:
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def known(self, value: Mapping[str, Any], words: tuple[str, ...], where: yaml_lines.Path) -> None:
        for key in value:
            if key not in words:
                near = difflib.get_close_matches(str(key), words, n=1, cutoff=0.6)
                meant = f" (did you mean `{near[0]}`?)" if near else f"; there is {', '.join(words)}"
                self.wrong((*where, key), f"unknown key `{key}`{meant}")

    def keys(self, value: Any) -> dict[str, Key]:
        if not isinstance(value, dict):
            self.wrong(("keys",), "`keys` is a mapping: name → {file: KEY.pub}")
            return {}
        return {name: self.key(name, each, ("keys", name)) for name, each in value.items()}

    def key(self, name: str, value: Any, where: yaml_lines.Path) -> Key:
        if not isinstance(value, dict):
            self.wrong(where, f"key `{name}` is a mapping such as {{file: {name}.pub}}")
            return Key(name)
        self.known(value, _KEY, where)
        file, pem = value.get("file", ""), value.get("pem", "")
        if bool(file) == bool(pem) or not isinstance(file, str) or not isinstance(pem, str):
            self.wrong(where, f"key `{name}` needs either `file` or `pem`")
            file = pem = ""
        expires: date | None = None
        if "expires" in value:
            try:
                expires = date.fromisoformat(value["expires"])
            except (TypeError, ValueError):
                self.wrong((*where, "expires"), f"`expires` of key `{name}` is a day such as 2027-02-01")
        revoked = value.get("revoked", False)
        if not isinstance(revoked, bool):
            self.wrong((*where, "revoked"), f"`revoked` of key `{name}` is true or false")
        return Key(name, file, pem, expires, revoked is not False, self.line(where))

    def rules(self, value: Any, keys: Mapping[str, Key]) -> tuple[Rule, ...]:
        if not isinstance(value, list):
            self.wrong(("rules",), "`rules` is a list of {pattern, keys, mode}")
            return ()
        return tuple(self.rule(each, keys, ("rules", i)) for i, each in enumerate(value))

    def rule(self, value: Any, keys: Mapping[str, Key], where: yaml_lines.Path) -> Rule:
        if not isinstance(value, dict):
            self.wrong(where, "a rule is a mapping: {pattern, keys, mode}")
            return Rule("", (), "enforce")
        self.known(value, _RULE, where)
        pattern, mode, names = value.get("pattern"), value.get("mode"), value.get("keys", [])
        if not isinstance(pattern, str) or not pattern:
            self.wrong((*where, "pattern"), "`pattern` is a name, with `*` for any part of it")
        if mode not in MODES:
            self.wrong((*where, "mode"), f"`mode` is one of {', '.join(MODES)}")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            self.wrong((*where, "keys"), "`keys` of a rule is a list of names that stand under `keys`")
            names = []
        for name in names:
            if name not in keys:
                near = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
                meant = f" (did you mean `{near[0]}`?)" if near else ""
                self.wrong((*where, "keys"), f"there is no key `{name}`{meant}")
        if not names and mode in ("warn", "enforce"):
            self.wrong(where, f"`mode: {mode}` needs at least one key")
        return Rule(str(pattern or ""), tuple(names), mode if mode in MODES else "enforce")
