"""hyb repair: what is damaged is set aside, then fetched or made again; what is whole is not touched.

What a step was is told by its receipt: stage, spec, pinned sources, inputs, and the digest that came out. So a lost
output is made by that step alone, from the same inputs, and counts as mended when the same digest comes out. A recipe
adds what receipts do not know: where the data lies, and its lock. A recipe that was changed since changes nothing here.

The order is safe to be killed in: damage is set aside first, and each step that follows looks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyb import damage, fs, generations, receipt, run, stages, upkeep
from hyb import digest as dg
from hyb import lock as lockfile
from hyb import recipe as recipes
from hyb.artifact import Artifact, short
from hyb.errors import HybError
from hyb.formats import intoto
from hyb.progress import Say
from hyb.recipe import Recipe
from hyb.stages.base import sources
from hyb.store import Store


@dataclass(frozen=True)
class Made:
    """A step as its receipt tells it. `pins`: source as written → pinned. `inputs`: name → digest."""

    name: str
    stage: str
    key: str
    spec: Mapping[str, Any]
    pins: Mapping[str, str]
    inputs: Mapping[str, str]
    output: str
    finished: str


@dataclass
class Report:
    """`done`: what was mended, a line each; `left`: what could not be, and why."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def repair(store: Store, say: Say, *, recipe: Path | None = None, offline: bool = False) -> Report:
    """Mend the store, and the lock beside `recipe`. Raises HybError for a store that can't be written.

    Every byte of the store is read once. What can't be mended is in the report; it is no error here.
    """
    report = Report()
    whole = recipes.read(recipe) if recipe else None
    if not (store.root / "hyb.json").exists():
        if recipe:
            _never_here(store, [], lockfile.read(recipe.with_name(lockfile.FILE)), report)
        return report
    with store.in_use():
        named = _names(store)
        _set_aside(store, say, report)
        steps = list(_steps(store))
        if whole and recipe:
            _mend_lock(store, whole, recipe.with_name(lockfile.FILE), report)
        _make_again(store, steps, whole, offline, say, report)
        _name_again(store, steps, named, report)
        if whole and recipe:
            lock = lockfile.read(recipe.with_name(lockfile.FILE))
            _attest_again(store, whole, lock, say, report)
            _never_here(store, steps, lock, report)
    return report


def _set_aside(store: Store, say: Say, report: Report) -> None:
    """Take away all that is damaged, and write anew what needs nothing else."""
    found = 0
    for path in damage.blobs(store, say):
        report.done.append(damage.set_aside(store, path))
        found += 1
    for one in damage.records(store):
        if one.path.name == "oci-layout":
            with store.writing():
                fs.write_atomic(one.path, damage.LAYOUT)
            report.done.append(f"wrote `{one.path}` anew")
        else:
            report.done.append(damage.set_aside(store, one.path))
            if not one.spare:
                report.left.append(f"{one.text}; its earlier generations are forgotten, the next run notes a new one")
    _mend_index(store, found > 0, report)
    for artifact in store.artifacts():
        if artifact.kind in ("receipt", "signature") and not store.has(artifact.digest):  # half of one tells nothing
            report.done.append(damage.set_aside(store, store.blob_path(artifact.digest)))
            _mend_index(store, True, report)
            if artifact.kind == "signature" and artifact.subject:  # only who has the key can make it again
                report.left.append(
                    f"a signature of `{short(artifact.subject)}` is lost: sign it again, or bring it here"
                )
    for one in damage.views(store, {a.digest: a for a in store.artifacts()}):
        upkeep.remove(one.path)
        report.done.append(f"removed the view `{one.path.name[:12]}`: the next use makes it anew")


def _mend_index(store: Store, stale: bool, report: Report) -> None:
    """Let the index list what is here: written anew when it can't be read, is `stale`, or lists what is gone."""
    try:
        stale = stale or not all(store.blob_path(d).exists() for d in store.digests())
        readable = True
    except HybError:
        readable = False
    if stale or not readable:
        count = upkeep.rebuild_index(store, keep_names=readable)
        report.done += [] if readable else [f"wrote index.json anew: {count} artifacts found"]


def _names(store: Store) -> dict[str, str]:
    """What the index names now; nothing when it can't be read."""
    try:
        return store.tags()
    except HybError:
        return {}


def _steps(store: Store) -> Iterator[Made]:
    """The steps that the store's receipts tell, oldest first; one that can't be read counts as none."""
    found = []
    for artifact in store.artifacts():
        if artifact.kind == "receipt" and artifact.subject and (made := _made(store, artifact)):
            found.append(made)
    yield from sorted(found, key=lambda m: m.finished)


def _made(store: Store, artifact: Artifact) -> Made | None:
    try:
        told = receipt.read(store, artifact)
        definition = told["predicate"]["buildDefinition"]
        return Made(
            str(told["subject"][0]["name"]), intoto.stage(told), str(definition["internalParameters"]["key"]),
            dict(definition["externalParameters"]), intoto.pins(told), intoto.inputs(told), str(artifact.subject),
            intoto.metadata(told, "finishedOn"),
        )  # fmt: skip
    except (HybError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _make_again(store: Store, steps: list[Made], whole: Recipe | None, offline: bool, say: Say, report: Report) -> None:
    """Do the steps again whose output is not whole, those first whose inputs are."""
    todo = [m for m in steps if not store.has(m.output)]
    todo = list({m.output: m for m in todo}.values())
    while ready := [m for m in todo if all(store.has(d) for d in m.inputs.values())]:
        for made in ready:
            todo.remove(made)
            say(f"{made.name}: making `{short(made.output)}` again")
            problem = _do(store, made, whole, offline, say)
            if problem:
                report.left.append(f"{made.name}: `{short(made.output)}` is not whole: {problem}")
            else:
                report.done.append(f"made {made.name} `{short(made.output)}` again")
    for made in todo:
        report.left.append(f"{made.name}: `{short(made.output)}` is not whole, nor is what it was made from")
    for made in steps:  # a record that was damaged, told by the receipt
        if store.has(made.output) and made.output not in store.outputs(made.key):
            store.record_step(made.key, made.stage, made.output)
            report.done.append(f"{made.name}: wrote the record of its step anew")


def _do(store: Store, made: Made, whole: Recipe | None, offline: bool, say: Say) -> str:
    """One step again, as it was; "" when the same came out, or else why not."""
    try:
        recipe, _, entry = made.name.rpartition("/")
        known = whole if whole and whole.name == recipe else None
        raw = _with_sources(made, known)
        kinds = {name: store.artifact(digest).kind for name, digest in made.inputs.items()}
        folder = known.folder if known else Path()
        step = recipes.build(recipe, {entry: raw}, made.inputs, kinds, folder)
        _same_key(step, made, offline, say)
        run.run(step, store, run.Options(offline=offline), say)
    except HybError as error:
        if not store.has(made.output):  # a gate that says no does so after its report is stored
            return f"{error.message}{'; ' + error.hint if error.hint else ''}"
    if store.has(made.output):
        return ""
    return "the step gave something else this time; `hyb run` makes what follows of it"


def _with_sources(made: Made, whole: Recipe | None) -> dict[str, Any]:
    """What the receipt says of the step, its models pinned. It names no place of this machine: the recipe does."""
    raw = dict(made.spec)
    name = made.name.rpartition("/")[2]
    entry = next((e for e in whole.entries if e.name == name), None) if whole else None
    for name, marker in sources(stages.load(made.stage).Spec).items():
        written = getattr(entry.spec, name, None) if entry and entry.stage == made.stage else None
        if isinstance(written, str) and written != raw.get(name) and intoto.portable(written) == raw.get(name):
            raw[name] = written
        elif marker.kind == "model" and isinstance(raw.get(name), str):
            raw[name] = made.pins.get(raw[name], raw[name])
    return raw


def _same_key(step: Recipe, made: Made, offline: bool, say: Say) -> None:
    """Raise HybError when the step is not that of the receipt: its data was changed, or hyb does it otherwise now."""
    from hyb import pin
    from hyb.plan import key_of

    pins = pin.pin(step, {}, offline=offline, say=say)
    if key_of(step.entries[0].spec, pins, made.inputs) != made.key:
        raise HybError("its data, or the hyb that makes it, has changed since", hint="`hyb run` makes it from that")


def _name_again(store: Store, steps: list[Made], named: Mapping[str, str], report: Report) -> None:
    """Names that got lost with a manifest or an index: as the index had them; else as receipts and ledgers tell."""
    told = {m.name: m.output for m in steps}
    for recipe in generations.names(store):
        if now := generations.read(store, recipe).now:
            told |= {f"{recipe}/{stage}": digest for stage, digest in now.outputs.items()}
    wanted = dict(named) if named else told
    tags = store.tags()
    lost = {n: d for n, d in wanted.items() if n not in tags and store.has(d)}
    if lost:
        store.move_names(lost)
        report.done.append(f"named again: {', '.join(sorted(lost))}")


def _mend_lock(store: Store, whole: Recipe, path: Path, report: Report) -> None:
    """A lock that can't be read is set aside; what the store noted of its last run takes its place."""
    try:
        lockfile.read(path)
        return
    except HybError:
        with fs.explained(f"can't write `{path}`"):
            path.replace(path.with_name(f"{path.name}.damaged"))
    report.done.append(f"set `{path}` aside as `{path.name}.damaged`")
    try:
        now = generations.read(store, whole.name).now
    except HybError:
        now = None
    if now:
        lockfile.write(path, now.lock)
        report.done.append(f"wrote `{path}` anew, as generation {now.number} has it")
    else:
        report.left.append(f"no run of `{whole.name}` is noted here: `hyb run` writes `{path}` anew")


def _attest_again(store: Store, whole: Recipe, lock: lockfile.Lock, say: Say, report: Report) -> None:
    """A receipt that was lost is written anew from the lock and the step's record, and says so of itself."""
    from hyb import pin
    from hyb.plan import key_of, written_sources

    told = {(m.key, m.output) for m in _steps(store)}
    lost = {
        name for name, s in lock.stages.items() if (s.key, s.output) not in told and s.output in store.outputs(s.key)
    }
    if not lost:
        return
    pins = pin.pin(whole, lock.pins, offline=True, lenient=True, say=say)
    for entry in whole.entries:
        locked = lock.stages.get(entry.name)
        if entry.name not in lost or locked is None or not store.has(locked.output):
            continue
        used = {s: pins[s] for s in written_sources(entry.spec) if s in pins}
        try:
            same = key_of(entry.spec, pins, locked.inputs) == locked.key
        except KeyError:
            same = False
        if not same:
            report.left.append(f"{entry.name}: its receipt is lost, and the recipe was changed since")
            continue
        now = receipt.now()
        facts = {"rewritten": "the receipt was lost; written anew by `hyb repair` from lock and step record"}
        document = receipt.statement(
            name=f"{whole.name}/{entry.name}", stage=entry.stage, key=locked.key,
            spec=entry.spec.model_dump(mode="json"), pins=used, inputs=locked.inputs,
            output=store.artifact(locked.output), started=now, ended=now, facts=facts,
        )  # fmt: skip
        receipt.add(store, document, store.artifact(locked.output))
        report.done.append(f"{entry.name}: wrote its receipt anew")


def _never_here(store: Store, steps: list[Made], lock: lockfile.Lock, report: Report) -> None:
    """What the lock names and no receipt tells how to make is not for a repair."""
    told = {m.output for m in steps}
    for name, locked in lock.stages.items():
        if locked.output not in told and not store.has(locked.output):
            report.left.append(f"{name}: `{short(locked.output)}` is not in this store: `hyb run` makes it")


def found(store: Store, say: Say) -> list[str]:
    """What a repair would set aside, a line each; nothing is changed."""
    lines = [f"would set `{short('sha256:' + p.name)}` aside" for p in damage.blobs(store, say)]
    lines += [f"would mend: {one.text}" for one in damage.records(store)]
    missing = [m for m in _steps(store) if not store.has(m.output)] if _readable(store) else []
    return lines + [f"would make {m.name} `{short(m.output)}` again" for m in missing]


def _readable(store: Store) -> bool:
    try:
        return all(dg.is_digest(d) and store.artifact(d) for d in store.digests())
    except HybError:
        return False
