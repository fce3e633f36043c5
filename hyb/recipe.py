"""hyb.yaml → Recipe, with all mistakes reported at once and their lines.

A stage names only stages above it, so file order is run order and there can be no circle. A command outside a recipe
builds a recipe too (`build`), with what is in the store already as `given` inputs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hyb import stages
from hyb.errors import HybError
from hyb.formats import boundary, licences, yaml_lines
from hyb.receipt import HOST
from hyb.stages.base import StageSpec, refs

FILE = "hyb.yaml"
VERSION = 1
_KEYS = ("hyb", "name", "boundary", "licences", "receipts", "stages")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Entry:
    """One stage of a recipe."""

    name: str
    spec: StageSpec
    line: int = 0

    @property
    def stage(self) -> str:
        """The stage's name, `tune`; `name` is what the recipe calls it, `bot`."""
        return self.spec.stage


@dataclass(frozen=True)
class Recipe:
    """A chain of stages. `folder`: where relative paths start. `given`: names that stand for artifacts in the store.

    `whole`: the entries of the file, where this is a part of it. `boundary`: what may leave this host; None where the
    recipe says nothing of it. It is part of no step's key. `host`: facts of this machine that receipts may hold
    (`receipts: {host: […]}`), see `hyb.receipt.HOST`; nor are these.
    """

    name: str
    entries: tuple[Entry, ...]
    folder: Path = Path()
    given: Mapping[str, str] = field(default_factory=dict)
    whole: tuple[Entry, ...] = ()
    boundary: boundary.Boundary | None = None
    licences: tuple[str, ...] | None = None
    """What a model or data set that comes in may be licensed under, in lower case; None: anything."""
    host: tuple[str, ...] = ()

    def upto(self, name: str | None) -> Recipe:
        """The recipe with only what `name` needs. Raises HybError for a name that it doesn't have."""
        if name is None:
            return self
        if name not in {e.name for e in self.entries}:
            raise HybError(
                f"recipe `{self.name}` has no stage `{name}`", hint=_near(name, [e.name for e in self.entries])
            )
        wanted = {name}
        for entry in reversed(self.entries):
            if entry.name in wanted:
                wanted |= set(_names(entry.spec))
        kept = tuple(e for e in self.entries if e.name in wanted)
        return replace(self, entries=kept, whole=self.entries)


def find(where: Path | None) -> Path:
    """The recipe file for what a user gave: a file, a folder, or None for the current folder. Raises HybError."""
    path = where or Path()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise HybError(f"no recipe `{path}`", hint="give a recipe's folder, or make one with `hyb init DIR`")
    return path


def read(path: Path) -> Recipe:
    """Read and check a recipe file. Raises HybError with every mistake found, as `file:line: …`."""
    try:
        document = yaml_lines.load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise HybError(f"`{path}` is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    except OSError as error:
        raise HybError(f"`{path}` can't be read: {error.strerror}") from error
    except yaml_lines.YamlError as error:
        raise HybError(f"{path}:{error.line}: {error}", hint="mend the YAML there") from error
    name, raw, mistakes = _top(document.value, path)
    entries, more = _entries(raw, {}, document.lines)
    limits, wrong = _boundary(document.value)
    allowed, bad = _licences(document.value)
    host, no = _receipts(document.value)
    placed = [(_line(document.lines, where), text) for where, text in [*mistakes, *wrong, *bad, *no, *more]]
    found = sorted([*document.mistakes, *placed], key=lambda mistake: mistake[0])
    if found:
        raise _mistakes(f"`{path}` has", [f"{path}:{line}: {text}" for line, text in found])
    return Recipe(name, tuple(entries), path.parent, boundary=limits, licences=allowed, host=host)


def build(
    name: str, raw: Mapping[str, Mapping[str, Any]], given: Mapping[str, str], kinds: Mapping[str, str], folder: Path
) -> Recipe:
    """The recipe of a single command. `given`: name → digest in the store; `kinds`: name → its artifact's kind."""
    entries, mistakes = _entries(raw, kinds, {})
    if mistakes:
        raise _mistakes("the options have", [text for _, text in mistakes])
    return Recipe(name, tuple(entries), folder, given)


def _line(lines: Mapping[yaml_lines.Path, int], where: yaml_lines.Path) -> int:
    """The line of a place in the document, or of the nearest thing around it."""
    while where and where not in lines:
        where = where[:-1]
    return lines.get(where, 1)


def _mistakes(where: str, texts: list[str]) -> HybError:
    if len(texts) == 1:
        return HybError(texts[0])
    return HybError(f"{where} {len(texts)} mistakes", details=texts)


def _top(value: Any, path: Path) -> tuple[str, dict[str, Any], list[tuple[yaml_lines.Path, str]]]:
    if not isinstance(value, dict):
        return "", {}, [((), "a recipe is a mapping with `hyb`, `name` and `stages`")]
    mistakes: list[tuple[yaml_lines.Path, str]] = []
    version = value.get("hyb")
    if version != VERSION:
        hint = f"`hyb: {version}` is not known to this hyb" if "hyb" in value else "the first key is missing"
        mistakes.append((("hyb",), f"{hint}; write `hyb: {VERSION}`"))
    for key in value:
        if key not in _KEYS:
            mistakes.append(((key,), f"unknown key `{key}`{_near(key, _KEYS)}"))
    name = value.get("name", path.resolve().parent.name.lower())
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        mistakes.append((("name",), f"the recipe's name `{name}` is not a word of a-z, 0-9 and `-` (at most 40)"))
    raw = value.get("stages")
    if not isinstance(raw, dict) or not raw:
        mistakes.append((("stages",), "`stages` is a mapping of at least one name to a stage"))
        raw = {}
    return str(name), raw, mistakes


def _boundary(value: Any) -> tuple[boundary.Boundary | None, list[tuple[yaml_lines.Path, str]]]:
    if not isinstance(value, dict) or "boundary" not in value:
        return None, []
    found, mistakes = boundary.parse(value["boundary"])
    return found, [(("boundary", *where), text) for where, text in mistakes]


def _licences(value: Any) -> tuple[tuple[str, ...] | None, list[tuple[yaml_lines.Path, str]]]:
    if not isinstance(value, dict) or "licences" not in value:
        return None, []
    found, mistakes = licences.parse(value["licences"])
    return found, [(("licences", *where), text) for where, text in mistakes]


def _receipts(value: Any) -> tuple[tuple[str, ...], list[tuple[yaml_lines.Path, str]]]:
    """`receipts: {host: [os, cpu]}`: the facts of this machine that may stand in receipts."""
    raw = value.get("receipts", {}) if isinstance(value, dict) else {}
    found = raw.get("host", []) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or set(raw) - {"host"} or not isinstance(found, list):
        return (), [(("receipts",), f"`receipts` is `{{host: [{', '.join(HOST)}]}}`, or some of these")]
    wrong = [
        f"`receipts` names `{f}`, which is no fact of a host; there are {', '.join(HOST)}"
        for f in found
        if not isinstance(f, str) or f not in HOST
    ]
    return tuple(map(str, found)), [(("receipts", "host"), text) for text in wrong]


def _entries(
    raw: Mapping[str, Any], above: Mapping[str, str], lines: Mapping[yaml_lines.Path, int]
) -> tuple[list[Entry], list[tuple[yaml_lines.Path, str]]]:
    """Entries in file order and mistakes as (path in the document, text). `above`: name → kind of what is known."""
    kinds, entries = dict(above), []
    mistakes: list[tuple[yaml_lines.Path, str]] = []
    for name, value in raw.items():
        where: yaml_lines.Path = ("stages", name)
        if not _NAME.fullmatch(name):
            mistakes.append((where, f"the name `{name}` is not a word of a-z, 0-9 and `-` (at most 40)"))
        stage = value.get("stage") if isinstance(value, dict) else None
        if stage not in stages.NAMES:
            mistakes.append(((*where, "stage"), _bad_stage(name, value, stage)))
            kinds[name] = "?"  # so that one mistake is not reported again below
            continue
        made = ""
        try:
            spec = stages.load(stage).Spec.model_validate(value)
        except ValidationError as error:
            mistakes += [((*where, *_where(e)), f"{name}: {_said(e, stage)}") for e in error.errors()]
        else:
            mistakes += [((*where, f), f"{name}: {text}") for f, text in _bad_refs(spec, kinds, raw)]
            entries.append(Entry(name, spec, lines.get(where, 0)))
            made = spec.makes()
        kinds[name] = made or stages.KINDS[stage]
    return entries, mistakes


def _bad_stage(name: str, value: Any, stage: Any) -> str:
    if not isinstance(value, dict):
        return f"{name}: a stage is a mapping such as `{{stage: pull, source: smollm2-135m}}`"
    if stage is None:
        return f"{name}: `stage` is missing; it is one of {', '.join(stages.NAMES)}"
    return f"{name}: unknown stage `{stage}`{_near(str(stage), stages.NAMES)}; stages are {', '.join(stages.NAMES)}"


def _bad_refs(spec: StageSpec, kinds: Mapping[str, str], raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for field_name, ref in refs(type(spec)).items():
        value = getattr(spec, field_name)
        for target in value if isinstance(value, (list, tuple, dict)) else [value] if value else []:
            kind = kinds.get(target)
            if kind is None and target in raw:
                yield (
                    field_name,
                    f"`{field_name}` names `{target}`, which stands below; a stage names only stages above it",
                )
            elif kind is None:
                yield (
                    field_name,
                    f"`{field_name}` names `{target}`, which is no stage above{_near(target, list(kinds))}",
                )
            elif kind not in (*ref.kinds, "?"):
                wanted = " or ".join(map(_a, ref.kinds))
                yield field_name, f"`{field_name}` names `{target}`, which is {_a(kind)}; it takes {wanted}"


def _names(spec: StageSpec) -> list[str]:
    from hyb.stages.base import referenced

    return referenced(spec)


def _where(error: Any) -> tuple[str | int, ...]:
    return tuple(error["loc"][:1])


def _said(error: Any, stage: str) -> str:
    field_name = ".".join(str(x) for x in error["loc"][:1])
    fields = [f for f in stages.load(stage).Spec.model_fields if f != "stage"]
    if error["type"] == "extra_forbidden" and len(error["loc"]) > 1:
        nested = stages.load(stage).Spec.model_fields[field_name].annotation
        known, key = list(getattr(nested, "model_fields", {})), str(error["loc"][-1])
        takes = f"; `{field_name}` takes {', '.join(known)}" if known else ""
        return f"unknown key `{field_name}.{key}`{_near(key, known)}{takes}"
    if error["type"] == "extra_forbidden":
        return f"unknown key `{field_name}`{_near(field_name, fields)}; `{stage}` takes {', '.join(fields)}"
    if error["type"] == "missing":
        return f"`{field_name}` is missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    shown = repr(error.get("input")) if not isinstance(error.get("input"), dict) else ""
    if not field_name:
        return str(message)
    own = error["type"] == "value_error"  # a validator of ours: its message says what was given
    return f"`{field_name}`: {message}" + (f", not {shown}" if shown and not own else "")


def _a(kind: str) -> str:
    """A kind of artifact with its article."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _near(word: str, words: Iterable[str]) -> str:
    hits = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f" (did you mean `{hits[0]}`?)" if hits else ""
