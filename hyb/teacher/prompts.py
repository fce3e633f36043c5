"""The prompts: hyb's own files, or a folder with files of the same names."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.errors import HybError

OWN = Path(__file__).parent / "prompts"
FIELDS = {
    "knowledge": {"passage", "examples", "count"},
    "skill": {"task", "examples", "count"},
    "verify": {"passage", "question", "answer"},
}
"""Prompt → the fields in braces that it may have."""


@dataclass(frozen=True)
class Prompts:
    """Name → text with fields in braces."""

    texts: dict[str, str]

    @property
    def digest(self) -> str:
        """Of all texts together."""
        return dg.of_json(self.texts)

    def fill(self, name: str, **values: str) -> str:
        """A prompt with its fields filled; what a value holds is never read as a field."""
        return self.texts[name].format(**values)


def read(folder: Path | None) -> Prompts:
    """hyb's own prompts, those that `folder` has in their place. Raises HybError naming all that is wrong."""
    texts: dict[str, str] = {}
    wrong: list[str] = []
    for name, known in FIELDS.items():
        mine = folder / f"{name}.txt" if folder else None
        path = mine if mine and mine.is_file() else OWN / f"{name}.txt"
        with fs.explained(f"can't read `{path}`"):
            texts[name] = path.read_text(encoding="utf-8")
        try:
            asked = {field for _, field, _, _ in string.Formatter().parse(texts[name]) if field is not None}
        except ValueError as error:
            wrong.append(f"{path.name}: {error}; a brace that is none is written twice, `{{{{`")
            continue
        wrong += [f"{path.name}: no field `{{{f}}}`; it may have {', '.join(sorted(known))}" for f in asked - known]
    if folder and not any((folder / f"{n}.txt").is_file() for n in FIELDS):
        wrong.append(f"none of {', '.join(f'{n}.txt' for n in FIELDS)} is in it")
    if wrong:
        raise HybError(f"the prompts in `{folder}` can't be used", details=sorted(wrong))
    return Prompts(texts)
