"""Data of any common shape → train, holdout and control rows in one form, each with its file and line.

The data are files (`source`: rows of any shape, or an InstructLab taxonomy), or other data sets (`mix`).

Two passes: the first reads, checks and normalises every row into spool files and keeps only its ids and place; the
second deals the rows out. A random holdout takes whole questions: two rows that ask the same never stand on both sides.
The choice depends on the seed and the questions alone, not on the order of rows or files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.formats import chat_files, chat_shapes, chat_stats, columns, modelpack, scan, taxonomy_files
from hyb.progress import Progress
from hyb.serving.client import Client
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, Source, StagePlan, StageSpec
from hyb.store import Store

SUMMARY = "read chat data, check it, and split it into training, held-out and control questions"
REVISION = 1
WARNED = 5  # findings of the scan that are told
PARTS = ("train", "holdout", "control")


class Share(BaseModel):
    """How much of a data set goes into a mix."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(default=1.0, gt=0, le=1000)
    """How often each training row is in it; 2.5: twice, and half of them once more."""
    cap: int = Field(default=0, ge=0)
    """Most training rows; 0: no limit."""

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class Generate(BaseModel):
    """How a teacher writes questions and answers about `source`: a taxonomy, or Markdown and text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    teacher: str = Field(min_length=1)
    """A model being served on this machine (`hyb ps`), or the URL of an OpenAI-compatible API; its key is in the file
    named by HYB_TEACHER_KEY_FILE, or in HYB_API_KEY."""
    model: str = ""
    """The model to ask for; the first that the server lists when empty."""
    count: int = Field(default=3, ge=1, le=50)
    """Pairs asked for, a passage or a skill."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=16)
    parallel: int = Field(default=8, ge=1, le=256)
    """Requests at once."""
    timeout: float = Field(default=300, gt=0)
    """Seconds of silence after which a request is given up."""
    grounded: float = Field(default=0.6, ge=0, le=1)
    """Least share of an answer's words that its passage must have."""
    verify: bool = False
    """Have the teacher check each answer against its passage, too."""
    seeds: bool = True
    """The taxonomy's own examples are rows, too."""


class Scan(BaseModel):
    """What happens when secrets or personal data are in the rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    act: Literal["off", "warn", "refuse"] = "warn"
    region: str = Field(default="", pattern="^([A-Z]{2})?$")
    """The country (`BR`) whose phone numbers may stand without their `+`."""
    allow: tuple[Literal["secret", "email", "phone", "card", "iban", "cpf", "cnpj"], ...] = ()
    """Kinds that are let through."""

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML reads `off` so
            return {"act": "warn" if value else "off"}
        return {"act": value} if isinstance(value, str) else value


class Spec(StageSpec):
    """What to read and how to split it."""

    stage: Literal["data"] = "data"
    source: Annotated[str, Source("path")] = ""
    """A file (`.jsonl`, `.json`, `.csv`, `.parquet`, …) or a folder of such files; or a taxonomy, or one `qna.yaml`."""
    mix: Annotated[dict[str, Share], Ref("dataset")] = Field(default_factory=dict)
    """In place of `source`: data sets above → a weight (2: each row twice), or `{weight: 0.5, cap: 1000}`."""
    holdout: Annotated[float | str, Source("path")] = 0.0
    """The part of the questions that is held out of training, from 0 to below 1; or a file or folder of its own."""
    control: Annotated[str | None, Source("path")] = None
    """A file or folder of general questions that training must not lose."""
    seed: int = 0
    format: Literal[
        "auto", "preference", "unpaired", "stepwise", "chat", "sharegpt", "tree", "alpaca", "completion", "ilab",
        "text", "segments", "tokens",
    ] = "auto"  # fmt: skip
    """Take rows of this shape only; `auto` takes any, row by row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Unusual column names: `{question: Frage, answer: Antwort}`; `a.b` is `b` within `a`."""
    context: taxonomy_files.Context = "auto"
    """Whether a taxonomy's questions come with their context: `auto` does so for skills, not for knowledge."""
    generate: Generate | None = None
    """Have a teacher model write rows about `source`, which then holds texts or a taxonomy."""
    prompts: Annotated[str, Source("path")] = ""
    """A folder with prompts (`knowledge.txt`, `skill.txt`, `verify.txt`) in place of hyb's own."""
    overlap: Literal["refuse", "warn"] = "refuse"
    """What happens when a held-out question of a file of its own is among the training rows."""
    broken: Literal["refuse", "skip"] = "refuse"
    """What happens to training rows that are mistaken. `skip` leaves them out, and says how many and which."""
    scan: Scan = Scan()
    """Look for secrets and personal data: `off`, `warn`, `refuse`, or `{act: refuse, region: BR, allow: [email]}`."""
    max_line: int = Field(default=chat_files.MAX_LINE, ge=1 << 10, le=1 << 30)
    """Bytes of one row; a longer one is a mistake."""
    tokenizer: Annotated[str, Ref("model")] = ""
    """A model whose tokenizer counts tokens for the statistics."""
    license: str = ""
    """The data's licence (an SPDX name), written into the artifact."""

    @field_validator("holdout", mode="plain")
    @classmethod
    def _holdout(cls, value: Any) -> float | str:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return str(value) or 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError("must be a number from 0 to below 1, or a path")
        return float(value)

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := [n for n in value if n not in columns.KNOWN]:
            raise ValueError(f"no column `{unknown[0]}`; known are {', '.join(columns.KNOWN)}")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Spec:
        if bool(self.source) == bool(self.mix):
            raise ValueError("give either `source` or `mix`")
        if self.generate and self.mix:
            raise ValueError("`generate` writes about a `source`, not about a `mix`")
        if self.prompts and not self.generate:
            raise ValueError("`prompts` are for `generate`")
        if self.mix and self.columns:
            raise ValueError("`columns` is for files; the data sets of a `mix` have hyb's own form")
        return self


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:  # noqa: ARG001
    """What will be read and made."""
    reads = [
        *([spec.source] if spec.source else spec.mix),
        *([spec.holdout] if isinstance(spec.holdout, str) else []),
        *filter(None, [spec.control]),
    ]
    held = "" if isinstance(spec.holdout, str) or not spec.holdout else f", {spec.holdout:g} of the questions held out"
    opens = (f"the teacher `{spec.generate.teacher}`",) if spec.generate else ()
    return StagePlan(makes=f"dataset{held}", reads=tuple(reads), opens=opens, memory=200 << 20)


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Read, check, split, store. Raises HybError with every mistake of every file."""
    reader = _Reader(spec, context)
    parts = {name: _Part(context.work / f"{name}.spool") for name in PARTS}
    if spec.mix:
        reader.mix({name: inputs[name] for name in spec.mix}, parts)
    elif spec.generate:
        reader.generate(spec.generate, parts["train"])
    else:
        reader.read(spec.source, parts["train"], answered=True)
    if isinstance(spec.holdout, str):
        reader.read(spec.holdout, parts["holdout"], answered=False)
    if spec.control:
        reader.read(spec.control, parts["control"], answered=False)
    reader.close()
    if isinstance(spec.holdout, float):
        chosen = split(parts["train"].questions, spec.holdout, spec.seed)
        _deal(parts["train"], parts["holdout"], chosen)
    _not_empty(spec, parts, reader.skipped)
    _scan(spec, parts, context)
    tokenizer = inputs.get(spec.tokenizer) if spec.tokenizer else None
    stats = _stats(parts, reader.shapes, counter(tokenizer, context.store) if tokenizer else None)
    if isinstance(spec.holdout, str) and spec.overlap == "refuse":
        _not_trained(stats["overlap"]["holdout"], spec)
    if reader.generated:
        stats["generated"] = reader.generated
    if reader.attribution:
        stats["attribution"] = reader.attribution
    if reader.skipped.count:
        stats["skipped"] = {"rows": reader.skipped.count, "first": reader.skipped.shown}
    for line in [*reader.notes.shown, *_warnings(stats)]:
        context.say(line)
    files = [_add(context, f"{name}.jsonl", part.path) for name, part in parts.items()]
    blob = context.store.add_bytes((json.dumps(stats, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    counts = {name: part.count for name, part in parts.items()}
    meta = {
        "counts": counts,
        "format": "+".join(sorted(reader.shapes["train"])),
        "license": spec.license or reader.license(),
    }
    return context.store.add_artifact("dataset", [*files, modelpack.file("stats.json", blob)], meta=meta)


def shares(rows: int, share: Share, seed: str) -> list[int]:
    """How often each of `rows` rows goes into a mix. The same for the same seed, and steady: a higher cap only adds."""
    ordered = sorted(range(rows), key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest())
    times = [int(share.weight)] * rows
    for n in ordered[: round((share.weight - int(share.weight)) * rows)]:
        times[n] += 1
    if share.cap:
        left = share.cap
        for turn in range(int(share.weight) + 1):  # every row once before any twice
            for n in ordered:
                if times[n] > turn:
                    left -= 1
                    times[n] = times[n] if left >= 0 else turn
    return times


def _again(line: bytes, name: str) -> chat_files.Located:
    """A row of a data set's file; its source is named after the data set."""
    value = json.loads(line)
    meta = value.get("meta", {})
    row = chat_shapes.normalise(value, answered=False) if "expect" in value else chat_shapes.normalise(value)
    return chat_files.Located(row, f"{name}/{meta.get('source', '')}", int(meta.get("line", 0)))


def split(questions: list[str], holdout: float, seed: int) -> set[str]:
    """The questions to hold out. `questions`: a question's id for each row. At least `holdout` of the rows' worth of
    them when it is above 0, and never all."""
    counts = Counter(questions)
    ordered = sorted(counts, key=lambda q: hashlib.sha256(f"{seed}:{q}".encode()).digest())
    wanted = max(1, round(holdout * len(questions))) if holdout else 0
    chosen: set[str] = set()
    held = 0
    for question in ordered[:-1]:
        if held >= wanted:
            break
        chosen.add(question)
        held += counts[question]
    return chosen


class _Part:
    """Rows on disk in their final form, and what is remembered of each: its id, its question's id, where it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"")
        self.ids: list[str] = []
        self.questions: list[str] = []
        self.places: list[tuple[str, int]] = []

    @property
    def count(self) -> int:
        return len(self.ids)

    def remember(self, row_id: str, question: str, place: tuple[str, int]) -> None:
        self.ids.append(row_id)
        self.questions.append(question)
        self.places.append(place)


class _Reader:
    """Reads sources into parts and keeps the mistakes of all of them, and what taxonomies are warned of."""

    def __init__(self, spec: Spec, context: Context) -> None:
        self.spec, self.context = spec, context
        self.mistakes, self.notes, self.skipped = (chat_files.Mistakes() for _ in range(3))
        self.shapes: dict[str, Counter[str]] = {}
        self.sources: list[str] = []
        self.attribution: list[dict[str, str]] = []
        self.generated: dict[str, Any] = {}

    def read(self, source: str, part: _Part, *, answered: bool) -> None:
        """All rows of a file or folder."""
        path = self.context.path(source)
        self.sources.append(source)
        leaves = taxonomy_files.files(path)
        named: list[Any] = leaves or chat_files.files(path)
        if leaves and (rows := sorted(p.name for p in path.rglob("*.jsonl"))):
            said = f"file ({rows[0]}) is" if len(rows) == 1 else f"files ({rows[0]}, …) are"
            self.context.say(f"`{source}` is a taxonomy: its {len(rows)} .jsonl {said} not read")
        for number, file in enumerate(named):
            self._spool(self._leaf(file) if leaves else self._rows(file, answered), part)
            self.context.say(Progress(f"reading {source}", number + 1, len(named), "file", f"{part.count} rows"))
        before = self.context.pins.get(source)
        if before and dg.of_tree(path) != before:
            raise HybError(f"`{path}` changed while it was read", hint="run again", code=Exit.CHECK)

    def _rows(self, file: chat_files.Named, answered: bool) -> Iterator[chat_files.Located]:
        renamed = columns.given(self.spec.columns) if self.spec.columns else None
        mistakes = self.skipped if answered and self.spec.broken == "skip" else self.mistakes
        return chat_files.rows(
            file, mistakes, answered=answered, only=self.spec.format, limit=self.spec.max_line, renamed=renamed
        )

    def _leaf(self, file: taxonomy_files.File) -> Iterator[chat_files.Located]:
        """A taxonomy's file: what is fatal in it is a mistake, the rest is said."""
        found = taxonomy_files.read(file)
        for finding in found.findings:
            (self.mistakes if finding.fatal else self.notes).add(file.name, finding.line, finding.text)
        if found.attribution:
            self.attribution.append({"file": file.name, **found.attribution})
        return taxonomy_files.rows(found, self.spec.context)

    def _spool(self, rows: Iterable[chat_files.Located], part: _Part) -> None:
        shapes = self.shapes.setdefault(part.path.stem, Counter())
        with part.path.open("ab") as spool:
            for found in rows:
                shapes[found.row.shape] += 1
                spool.write(dg.canonical_json(found.as_json()) + b"\n")
                part.remember(found.row.id, found.row.question_id, (found.source, found.line))

    def generate(self, asked: Generate, part: _Part) -> None:
        """Rows that a teacher writes about the source, behind the taxonomy's own."""
        from hyb.serving import endpoint
        from hyb.teacher import generate, prompts, sources

        context, path = self.context, self.context.path(self.spec.source)
        self.sources.append(self.spec.source)
        told = prompts.read(context.path(self.spec.prompts) if self.spec.prompts else None)
        topics = sources.read(path, context.store.root / "cache", offline=context.offline)
        key = os.environ.get("HYB_TEACHER_KEY_FILE")
        found = endpoint.find(asked.teacher, os.environ, key_file=Path(key) if key else None, offline=context.offline)
        with Client(found.address, timeout=asked.timeout) as client:
            model = found.model(client, asked.model)
        wish = generate.Wish(
            model, asked.count, asked.temperature, asked.max_tokens, self.spec.seed, asked.parallel, asked.timeout,
            asked.verify, asked.grounded,
        )  # fmt: skip
        rows, report = generate.rows(
            topics, found.address, told, wish, context.store.root / "cache" / "teacher",
            lambda task, done, total: context.say(Progress(task, done, total, "request")),
        )  # fmt: skip
        if asked.seeds:
            for file in taxonomy_files.files(path):
                self._spool(self._leaf(file), part)
        if not rows and not part.count:
            details = generate.told_dropped(report.dropped)
            raise HybError(f"`{self.spec.source}` has no rows: nothing that the teacher wrote is kept", details=details,
                           hint="see what it writes with `hyb chat`; or another model, or other `prompts`")  # fmt: skip
        self._spool(rows, part)
        self.generated = {**report.as_json(), "model": model, "prompts": told.digest}
        context.record("teacher_answers_from_cache", report.cached)
        for line in generate.told_dropped(report.dropped):
            context.say(line)
        context.say(f"{report.kept} of {report.pairs} pairs about {report.topics} passages are kept")

    def mix(self, given: Mapping[str, Artifact], parts: Mapping[str, _Part]) -> None:
        """The rows of other data sets: of training rows each its share, of the others all."""
        for name, artifact in given.items():
            self.sources.append(name)
            folder = self.context.store.view(artifact)
            for part in PARTS:
                share = self.spec.mix[name] if part == "train" else Share()
                lines = (folder / artifact.file(f"{part}.jsonl").path).read_bytes().splitlines()
                times = shares(len(lines), share, f"{self.spec.seed}:{name}")
                rows = (_again(line, name) for line, many in zip(lines, times, strict=True) for _ in range(many))
                self._spool(rows, parts[part])

    def license(self) -> str:
        """The licences that the attributions name."""
        return " AND ".join(dict.fromkeys(a["license"] for a in self.attribution if a.get("license")))

    def close(self) -> None:
        """Raise HybError when there was any mistake."""
        if self.mistakes.count:
            raise self.mistakes.error(", ".join(f"`{s}`" for s in self.sources))


def _deal(train: _Part, holdout: _Part, chosen: set[str]) -> None:
    """Move the rows with these questions from `train` to `holdout`."""
    kept = _Part(train.path.with_suffix(".kept"))
    with train.path.open("rb") as lines, kept.path.open("wb") as stay, holdout.path.open("wb") as go:
        for line, row_id, question, place in zip(lines, train.ids, train.questions, train.places, strict=True):
            part, out = (holdout, go) if question in chosen else (kept, stay)
            out.write(line)
            part.remember(row_id, question, place)
    kept.path.replace(train.path)
    train.ids, train.questions, train.places = kept.ids, kept.questions, kept.places


def _not_trained(overlap: dict[str, Any], spec: Spec) -> None:
    """Raise HybError when held-out questions are trained: an exam that was seen says nothing."""
    if overlap["rows"]:
        raise HybError(
            f"{overlap['rows']} held-out question(s) of `{spec.holdout}` are also in the training rows",
            hint="take them out of one of the two; or `overlap: warn`",
            details=overlap["first"],
            code=Exit.CHECK,
        )


def scanned(path: Path, wish: Scan) -> Iterator[str]:
    """`file:line: what` of each finding in a file of rows (`train.jsonl` and its like)."""
    with path.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            where = f"{row['meta']['source']}:{row['meta']['line']}"
            for found in scan.row(row, region=wish.region, allow=frozenset(wish.allow)):
                yield f"{where}: {found}"


def _scan(spec: Spec, parts: dict[str, _Part], context: Context) -> None:
    """Warn of secrets and personal data, or raise HybError (exit 4). Nothing of it goes into the artifact: what is
    found depends on which libraries are installed."""
    wish = spec.scan
    if wish.act == "off":
        return
    if wish.act == "refuse":  # a gate must not look away in silence
        engine.require(scan.missing(frozenset(wish.allow)), "data", "data")
    found = list(dict.fromkeys(line for part in parts.values() for line in scanned(part.path, wish)))
    if not found:
        return
    first = found[:WARNED] + ([f"and {len(found) - WARNED} more"] if len(found) > WARNED else [])
    if wish.act == "refuse":
        raise HybError(
            f"{len(found)} secret(s) or personal data in the rows",
            hint="take them out; or `scan: {act: refuse, allow: […]}` for a kind that may be trained",
            details=first,
            code=Exit.CHECK,
        )
    context.say(f"{len(found)} secret(s) or personal data in the rows, which a model may repeat: {'; '.join(first)}")


def _not_empty(spec: Spec, parts: dict[str, _Part], skipped: chat_files.Mistakes) -> None:
    if not parts["train"].count:
        hint = "an empty data set can't be trained on"
        raise HybError(f"`{spec.source or 'mix'}` has no rows", hint=hint, details=skipped.shown)
    named = {"holdout": spec.holdout if isinstance(spec.holdout, str) else "", "control": spec.control or ""}
    for name, path in named.items():
        if path and not parts[name].count:
            raise HybError(f"`{path}` has no rows", hint=f"leave `{name}` out, or give questions")
    if isinstance(spec.holdout, float) and spec.holdout and not parts["holdout"].count:
        raise HybError(
            f"`{spec.source}` asks only one question, so none can be held out", hint="leave `holdout` out, or add rows"
        )


def _stats(
    parts: dict[str, _Part], shapes: dict[str, Counter[str]], count: Callable[[str], int] | None
) -> dict[str, Any]:
    """Counts, duplicates, overlaps and lengths: deterministic, no path of this machine."""
    trained = dict(zip(reversed(parts["train"].questions), reversed(parts["train"].places), strict=True))
    stats: dict[str, Any] = {"shapes": {p: dict(found) for p, found in shapes.items()}, "parts": {}, "overlap": {}}
    for name, part in parts.items():
        lengths = chat_stats.Lengths(count)
        with part.path.open("rb") as lines:
            for line in lines:
                lengths.add(chat_stats.spoken(json.loads(line)))
        duplicates = part.count - len(set(part.ids))
        stats["parts"][name] = {"rows": part.count, "duplicates": duplicates, "lengths": lengths.summary()}
        if name != "train":
            both = [(p, trained[q]) for q, p in zip(part.questions, part.places, strict=True) if q in trained]
            shown = [f"{a[0]}:{a[1]} asks what {b[0]}:{b[1]} asks" for a, b in both[:10]]
            stats["overlap"][name] = {"rows": len(both), "first": shown}
    return stats


def _warnings(stats: dict[str, Any]) -> list[str]:
    """What a person should know, one line each."""
    lines = []
    if skipped := stats.get("skipped"):
        lines.append(f"train: {skipped['rows']} broken rows are left out, the first: {skipped['first'][0]}")
    for name, part in stats["parts"].items():
        if part["duplicates"]:
            lines.append(f"{name}: {part['duplicates']} of {part['rows']} rows are exact duplicates")
    for name, overlap in stats["overlap"].items():
        if overlap["rows"]:
            first = overlap["first"][0]
            lines.append(
                f"{name}: {overlap['rows']} questions are also in the training rows ({first}), so they test little"
            )
    for part, found in stats["shapes"].items():
        if len(found) > 1:
            shapes = ", ".join(f"{n} {shape}" for shape, n in sorted(found.items()))
            lines.append(f"{part}: the rows have several shapes: {shapes}")
    return lines


def counter(model: Artifact, store: Store) -> Callable[[str], int]:
    """How many tokens a text has for `model`. Raises HybError where the package `tokenizers` is missing."""
    engine.require(["tokenizers"], "tune", "data")
    from tokenizers import Tokenizer

    path = store.view(model) / model.file("tokenizer.json").path
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _add(context: Context, name: str, path: Path) -> File:
    return modelpack.file(name, context.store.add_file(path, how="move"))
