"""A taxonomy of InstructLab on disk → rows: each question with its answer, and where it stands.

A grounded skill's context is part of what is asked. A knowledge's context is what the answer was taken from: a model
that is to know it is asked without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyb import fs
from hyb.errors import HybError
from hyb.formats import taxonomy
from hyb.formats.chat import Row, message
from hyb.formats.chat_files import Located

ATTRIBUTION = "attribution.txt"
Context = Literal["auto", "with", "without"]


@dataclass(frozen=True)
class File:
    """A qna.yaml: `name` relative to what was read, with `/`."""

    name: str
    path: Path


@dataclass(frozen=True)
class Read:
    """What a file gave."""

    file: File
    leaf: taxonomy.Leaf | None
    findings: tuple[taxonomy.Finding, ...]
    attribution: dict[str, str]

    def said(self) -> list[str]:
        """The findings as `file:line: text`."""
        return [f"{self.file.name}:{f.line}: {f.text}" for f in self.findings]


def files(path: Path) -> list[File]:
    """The qna.yaml files at `path`: a file, or a folder with any below it; those with a wrong name, too. No hidden."""
    if path.is_file():
        return [File(path.name, path)] if path.name.lower() in (taxonomy.FILE, "qna.yml") else []
    found = [p for p in path.rglob("*") if p.name.lower() in (taxonomy.FILE, "qna.yml") and p.is_file()]
    named = [File(p.relative_to(path).as_posix(), p) for p in sorted(found)]
    return [f for f in named if not any(part.startswith(".") for part in f.name.split("/"))]


def read(file: File) -> Read:
    """Read one file. Raises HybError when it can't be read at all."""
    with fs.explained(f"can't read `{file.path}`"):
        data = file.path.read_bytes()
    wrong = taxonomy.name_problem(file.path.name)
    named = [taxonomy.Finding(1, "name", wrong)] if wrong else []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return Read(file, None, (taxonomy.Finding(line, "utf-8", "is not UTF-8", fatal=True),), {})
    leaf, findings = taxonomy.read(text, str(file.path.resolve()))
    beside = file.path.parent / ATTRIBUTION
    with fs.explained(f"can't read `{beside}`"):
        noted = taxonomy.attribution(beside.read_text(errors="replace")) if beside.is_file() else {}
    return Read(file, leaf, (*named, *findings), noted)


def rows(found: Read, context: Context = "auto") -> Iterator[Located]:
    """The rows of a file; `context`: whether a question is asked with what its answer was taken from."""
    leaf = found.leaf
    for example in leaf.examples if leaf else ():
        with_it = context == "with" or (context == "auto" and leaf is not None and leaf.kind == taxonomy.SKILL)
        asked = f"{example.context}\n\n{example.question}" if with_it and example.context else example.question
        said = [message("user", asked, "question"), message("assistant", example.answer, "answer")]
        yield Located(Row(leaf.kind if leaf else "", said), found.file.name, example.line)


def lint(path: Path) -> list[Read]:
    """Every qna.yaml at `path` with all its findings. Raises HybError when there is none."""
    found = [read(f) for f in files(path)] if path.exists() else []
    if not found:
        raise HybError(f"`{path}` has no `{taxonomy.FILE}`", hint="give a taxonomy's folder or one file")
    return found
