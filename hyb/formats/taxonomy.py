"""InstructLab's qna.yaml → seed examples, and all that is wrong with the file, each with its line. Pure.

Knowledge of version 3 and compositional skills of versions 1 to 3, by the rules of instructlab/schema 0.4.2 and of its
parser. A finding is `fatal` when nothing can be made of the file; the others matter to whoever lints (`hyb data lint`)
and are warnings to whoever imports, for taxonomies in the wild break many of them.

The layout findings are those of yamllint's `relaxed` rules that its JSON schema can't see (yamllint itself is GPL).
Beside upstream's `document: {repo, commit, patterns}`, hyb takes `document: {path, patterns}`: files that lie near.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from hyb.formats import yaml_lines

FILE = "qna.yaml"
KNOWLEDGE, SKILL = "knowledge", "skill"
FOLDERS = {"knowledge": KNOWLEDGE, "compositional_skills": SKILL, "foundational_skills": SKILL}
NEWEST = 3
OLDEST = {KNOWLEDGE: 3, SKILL: 1}
EXAMPLES, PAIRS = 5, 3
"""Least seed examples of a file, and least pairs of a knowledge example."""
READ = (".md", ".pdf")
"""What InstructLab reads of a document's files."""

_TOP = {
    KNOWLEDGE: ("version", "created_by", "domain", "document_outline", "document", "seed_examples"),
    SKILL: ("version", "created_by", "task_description", "seed_examples"),
}
_DOCUMENT = (("repo", "commit", "patterns"), ("path", "patterns"))
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Path = yaml_lines.Path


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong at a line. `rule`: a short name that stays the same."""

    line: int
    rule: str
    text: str
    fatal: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Example:
    """One question with its answer; `context` is "" where there is none. `line`: where the question stands."""

    question: str
    answer: str
    context: str = ""
    line: int = 0


@dataclass(frozen=True)
class Source:
    """Where a knowledge file's documents are: a git `repo` at a `commit`, or a folder `path` near the file."""

    repo: str = ""
    commit: str = ""
    path: str = ""
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaf:
    """What a qna.yaml says. `kind`: "knowledge" or "skill"."""

    kind: str
    version: int
    created_by: str
    task: str
    """A skill's `task_description`, a knowledge's `document_outline`."""
    domain: str
    source: Source | None
    examples: tuple[Example, ...]


def read(text: str, path: str = "") -> tuple[Leaf | None, list[Finding]]:
    """The leaf, None when a finding is fatal, and all findings in order of their lines.

    `path`: as in the taxonomy (`compositional_skills/writing/qna.yaml`); its folders tell the kind.
    """
    try:
        document = yaml_lines.load(text)
    except yaml_lines.YamlError as error:
        return None, [Finding(error.line, "yaml", f"is no YAML: {error}", fatal=True)]
    found = [Finding(line, "yaml", said) for line, said in document.mistakes]
    if not isinstance(document.value, dict):
        return None, [*found, Finding(1, "top", "must be a mapping of keys to values", fatal=True)]
    checker = _Checker(document.value, document.lines, kind_of(path, document.value))
    leaf = checker.leaf()
    found += [*checker.found, *_other_words(text)]
    if checker.version > 1 or checker.kind == KNOWLEDGE:
        found += layout(text)
    if not leaf.examples:
        found.append(Finding(checker.line(("seed_examples",)), "examples", "no question with an answer", fatal=True))
    return (None if any(f.fatal for f in found) else leaf), sorted(set(found))


def kind_of(path: str, value: Mapping[str, Any]) -> str:
    """ "knowledge" or "skill": by the last of the taxonomy's folders in the path, else by the key `document`."""
    known = [FOLDERS[part] for part in path.replace("\\", "/").split("/") if part in FOLDERS]
    return known[-1] if known else KNOWLEDGE if "document" in value else SKILL


def name_problem(name: str) -> str:
    """Why InstructLab would pass a file over because of its name; "" when it would not."""
    if name == FILE or name.lower() not in (FILE, "qna.yml"):
        return ""
    return f"`{name}` must be called `{FILE}`: InstructLab passes it over"


def attribution(text: str) -> dict[str, str]:
    """What an attribution.txt says, by InstructLab's five fields: title, link, revision, license, creators."""
    names = {
        "title of work": "title", "link to work": "link", "revision": "revision", "license of the work": "license",
        "creator names": "creators",
    }  # fmt: skip
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and (name := names.get(key.strip().lower())) and value.strip():
            found[name] = f"{found[name]}; {value.strip()}" if name in found else value.strip()
    return found


class _Checker:
    """One file's rules. `found` grows as `leaf` is read."""

    def __init__(self, value: Mapping[str, Any], lines: Mapping[Path, int], kind: str) -> None:
        self.value, self.lines, self.kind = value, lines, kind
        self.found: list[Finding] = []
        self.version = self._version()

    def leaf(self) -> Leaf:
        """Read the whole file."""
        for key in self.value:
            if key not in _TOP[self.kind]:
                self.add((key,), "unknown-key", f"unknown key `{key}`; {self.kind} has {', '.join(_TOP[self.kind])}")
        created_by = self.text(("created_by",), required=True)
        least = 0 if self.version == 1 and self.kind == SKILL else 1
        task = "document_outline" if self.kind == KNOWLEDGE else "task_description"
        outline = self.text((task,), required=True, least=least)
        domain = self.text(("domain",), required=True) if self.kind == KNOWLEDGE else ""
        source = self._document() if self.kind == KNOWLEDGE else None
        examples = tuple(self._examples())
        return Leaf(self.kind, self.version, created_by, outline, domain, source, examples)

    # -- places --------------------------------------------------------------------------------------------------

    def line(self, where: Path) -> int:
        """The line of a place, or of what is around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def add(self, where: Path, rule: str, text: str) -> None:
        """Note a finding."""
        self.found.append(Finding(self.line(where), rule, text))

    def at(self, where: Path) -> Any:
        """The value at a place, or None."""
        value: Any = self.value
        for step in where:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def text(self, where: Path, *, required: bool, least: int = 1) -> str:
        """The text at a place, "" when there is none; what is wrong with it is noted."""
        value, name = self.at(where), _name(where)
        if value is None:
            if required:
                self.add(where, "missing", f"`{name}` is missing")
            return ""
        if not isinstance(value, str):
            self.add(where, "type", f"`{name}` must be a text, not {_kind(value)}; put it in quotes")
            return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
        if len(value) < least or (least and not value.strip()):
            self.add(where, "empty", f"`{name}` is empty")
            return ""
        return value

    def items(self, where: Path, least: int) -> Iterator[tuple[Path, Any]]:
        """The elements of a list with their places; too few, or two that are equal, are noted."""
        value, name = self.at(where), _name(where)
        if value is None:
            self.add(where, "missing", f"`{name}` is missing")
            return
        if not isinstance(value, list):
            self.add(where, "type", f"`{name}` must be a list, not {_kind(value)}")
            return
        if len(value) < least:
            self.add(where, "few", f"`{name}` has {len(value)}, at least {least} are needed")
        seen: dict[str, int] = {}
        for number, item in enumerate(value):
            place = (*where, number)
            key = json.dumps(item, sort_keys=True, default=str)
            if key in seen:
                self.add(place, "twice", f"`{_name(place)}` is the same as the one in line {seen[key]}")
            seen.setdefault(key, self.line(place))
            yield place, item

    def mapping(self, where: Path, value: Any, keys: tuple[str, ...]) -> bool:
        """True when `value` is a mapping; keys that are not among `keys` are noted (none given: all are good)."""
        if not isinstance(value, dict):
            self.add(where, "type", f"`{_name(where)}` must be a mapping, not {_kind(value)}")
            return False
        for key in value if keys else ():
            if key not in keys:
                self.add((*where, key), "unknown-key", f"unknown key `{key}` in `{_name(where)}`: {', '.join(keys)}")
        return True

    # -- parts ---------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        value = self.value.get("version", 1)
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(("version",), "version", f"`version` must be a whole number, not {_kind(value)}")
            return NEWEST
        if value < OLDEST[self.kind]:
            said = "is missing, which means 1" if "version" not in self.value else f"is {value}"
            self.add(("version",), "version", f"`version` {said}; {self.kind} needs {OLDEST[self.kind]} at least")
        if value > NEWEST:
            self.add(("version",), "version", f"`version` {value} is newer than {NEWEST}, the newest known here")
        return value

    def _document(self) -> Source | None:
        where: Path = ("document",)
        value = self.value.get("document")
        if value is None:
            self.add(where, "missing", "`document` is missing")
            return None
        near = isinstance(value, dict) and "path" in value and "repo" not in value
        if not self.mapping(where, value, _DOCUMENT[near]):
            return None
        patterns = []
        for place, item in self.items((*where, "patterns"), 1):
            if isinstance(item, str) and item:
                patterns.append(item)
                if not item.lower().endswith(READ) and not near:
                    self.add(place, "pattern", f"pattern `{item}`: InstructLab reads only {' and '.join(READ)}")
            else:
                self.add(place, "type", "a pattern must be a text")
        if near:
            return Source(path=self.text((*where, "path"), required=True), patterns=tuple(patterns))
        repo, commit = self.text((*where, "repo"), required=True), self.text((*where, "commit"), required=True)
        if commit and not COMMIT.fullmatch(commit):
            self.add((*where, "commit"), "commit", f"commit `{commit}` is no full commit id: a branch or tag moves")
        return Source(repo, commit, patterns=tuple(patterns))

    def _examples(self) -> Iterator[Example]:
        least = 1 if self.kind == SKILL and self.version == 1 else EXAMPLES
        for where, item in self.items(("seed_examples",), least):
            if self.kind == KNOWLEDGE:
                yield from self._knowledge(where, item)
            elif self.mapping(where, item, ("question", "answer", "context")):
                context = self.text((*where, "context"), required=False)
                yield from self._pair(where, context)

    def _knowledge(self, where: Path, item: Any) -> Iterator[Example]:
        if not self.mapping(where, item, ("context", "questions_and_answers")):
            return
        context = self.text((*where, "context"), required=True)
        for place, pair in self.items((*where, "questions_and_answers"), PAIRS):
            if self.mapping(place, pair, ()):
                yield from self._pair(place, context)

    def _pair(self, where: Path, context: str) -> Iterator[Example]:
        question = self.text((*where, "question"), required=True)
        answer = self.text((*where, "answer"), required=True)
        if question and answer:
            line = self.line((*where, "question"))
            yield Example(question.strip("\n"), answer.strip("\n"), context.strip("\n"), line)


def layout(text: str) -> list[Finding]:
    """What yamllint's relaxed rules say of the lines themselves."""
    lines = text.split("\n")
    found = []
    if text and not text.endswith("\n"):
        found.append(Finding(len(lines), "new-line-at-end-of-file", "the last line does not end"))
    if "\r" in text:
        at = next(n for n, line in enumerate(lines, 1) if "\r" in line)
        found.append(Finding(at, "new-lines", "lines end as on Windows (CR LF); end them with LF"))
    blank = 0
    for number, line in enumerate(lines[:-1] if text.endswith("\n") else lines, 1):
        stripped = line.rstrip("\r")
        if stripped != stripped.rstrip(" \t"):
            found.append(Finding(number, "trailing-spaces", "spaces at the end of the line"))
        blank = 0 if stripped.strip() else blank + 1
        if blank == 3 or (blank == 1 and number == 1):
            found.append(Finding(number, "empty-lines", "too many blank lines"))
    if text.endswith("\n\n"):
        found.append(Finding(len(lines) - 1, "empty-lines", "blank lines at the end"))
    return found + list(_spaces(text))


def _tokens(text: str) -> Iterator[Any]:
    """YAML's tokens, up to where there are none: behind a second document's beginning nothing was read before."""
    with contextlib.suppress(yaml.YAMLError):
        yield from yaml.scan(text, Loader=yaml.SafeLoader)


def _other_words(text: str) -> Iterator[Finding]:
    """Words without quotes that are texts here, as YAML 1.2 has it, but not to InstructLab, which reads YAML 1.1."""
    for token in _tokens(text):
        if isinstance(token, yaml.ScalarToken) and token.plain and (said := yaml_lines.in_yaml_1_1(token.value)):
            line = token.start_mark.line + 1
            yield Finding(line, "type", f"`{token.value}` is {said} to InstructLab; put it in quotes")


def _spaces(text: str) -> Iterator[Finding]:
    """More than one space after a hyphen or a colon, and any before a colon."""
    last: Any = None
    for token in _tokens(text):
        rule = {yaml.BlockEntryToken: "hyphens", yaml.ValueToken: "colons"}.get(type(last), "")
        same = rule and token.start_mark.line == last.end_mark.line
        if same and token.start_mark.column - last.end_mark.column > 1:
            sign = "-" if rule == "hyphens" else ":"
            yield Finding(token.start_mark.line + 1, rule, f"more than one space after `{sign}`")
        if isinstance(token, yaml.ValueToken) and isinstance(last, yaml.ScalarToken) and _apart(last, token):
            yield Finding(token.start_mark.line + 1, "colons", "a space before `:`")
        last = token


def _apart(last: Any, token: Any) -> bool:
    same = last.end_mark.line == token.start_mark.line
    return bool(same and last.end_mark.column < token.start_mark.column)


def _name(where: Path) -> str:
    """`seed_examples[2].question`."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
        str: "a text",
    }
    return "nothing" if value is None else names.get(type(value), "a text")
