"""Walks the steps: takes what the store has, makes the rest, writes store, receipts and lock after each step."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyb import engine, fs, generations, loaded, machine, pin, receipt, stages
from hyb import lock as lockfile
from hyb.artifact import Artifact, short
from hyb.blobs import ANOTHER
from hyb.boundary import recorded
from hyb.errors import Exit, HybError
from hyb.formats import intoto, licences
from hyb.generations import Ledger
from hyb.lock import Lock, Locked
from hyb.plan import Known, Step, key_of, one, plan, written_sources
from hyb.progress import Say
from hyb.recipe import Entry, Recipe
from hyb.signing import gate
from hyb.stages.base import Context, referenced
from hyb.store import Store


@dataclass(frozen=True)
class Options:
    """How to run: `lock` the lock's path (None: no lock), `locked` refuse to differ, `update` pin sources anew;
    `container` and `trained`: see `hyb.stages.base.Context`; `host`: facts of this machine that receipts may hold, in
    place of those that the recipe names."""

    lock: Path | None = None
    offline: bool = False
    locked: bool = False
    update: bool = False
    container: str = ""
    trained: Path | None = None
    host: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Result:
    """One step's outcome: `cached` when the store had it; `seconds` of work."""

    name: str
    stage: str
    artifact: Artifact
    cached: bool
    seconds: float = 0.0


def known(store: Store, *, costs: bool = False) -> Known:
    """The store, as the planner sees it; with `costs` this machine, too."""

    def config(digest: str) -> dict[str, Any] | None:
        files = {f.path: f.blob.digest for f in store.artifact(digest).files}
        try:
            return dict(json.loads(store.blob_path(files["config.json"]).read_bytes()))
        except (KeyError, OSError, ValueError, TypeError):
            return None

    return Known(store.outputs, store.has, store.artifact, config, functools.cache(machine.here) if costs else None)


def prepare(
    recipe: Recipe, store: Store, options: Options, say: Say, *, lenient: bool = False
) -> tuple[dict[str, str], Lock, list[Step]]:
    """Pins, lock and plan; writes nothing. `lenient`: a source that can't be pinned now is not an error.

    Raises HybError (exit 4) when `locked` and the lock is stale.
    """
    pins, lock = _inputs(recipe, options, say, lenient=lenient)
    steps = plan(recipe, pins, lock, known(store, costs=True))
    if options.container:
        steps = [_inside(step, options.container) for step in steps]
    if options.lock and (undone := rolled_back(recipe, pins, generations.read(store, recipe.name))):
        say(f"a run is refused: {undone.message}; {undone.hint}")
    if options.locked:
        _same(recipe, pins, lock, steps)
    _licensed(recipe, {step.entry.name: store.artifact(step.output) for step in steps if step.output})
    return pins, lock, steps


def _inside(step: Step, image: str) -> Step:
    """A step as it is run with its training in a container of this image."""
    if step.entry.stage != "tune":
        return step
    runs = tuple(f"podman run --network=none {image} {line}" for line in step.plan.runs)
    return replace(step, plan=replace(step.plan, runs=runs))


def _inputs(recipe: Recipe, options: Options, say: Say, *, lenient: bool = False) -> tuple[dict[str, str], Lock]:
    """Pins and lock. Raises HybError (exit 4) when `locked` and there is no lock."""
    lock = lockfile.read(options.lock) if options.lock else Lock()
    if options.locked and options.lock and not options.lock.exists():
        raise HybError(f"there is no lock `{options.lock}`", hint="`hyb run` writes it", code=Exit.CHECK)
    for name, path in pin.outside(recipe) if options.lock else ():
        say(f"{name}: reads `{path}`, which lies outside the recipe's folder")
    offline = options.offline or options.locked
    pins = pin.pin(recipe, lock.pins, offline=offline, update=options.update, lenient=lenient, say=say)
    return pins, lock


def run(recipe: Recipe, store: Store, options: Options, say: Say) -> list[Result]:
    """Run what is not done. The results are in recipe order.

    Raises HybError: a stage's own error; exit 4 for a failed gate (its report is stored), a lock that would differ, a
    recipe whose result was rolled back from, a licence that is not allowed, or what the trust policy refuses.
    """
    pins, lock = _inputs(recipe, options, say)
    if options.locked:
        _same(recipe, pins, lock, plan(recipe, pins, lock, known(store)))
    results: list[Result] = []
    outputs: dict[str, str | None] = dict(recipe.given)
    done: dict[str, Locked] = dict(lock.stages)
    with store.in_use(), generations.running(store, recipe.name) if options.lock else contextlib.nullcontext():
        if options.lock and (undone := rolled_back(recipe, pins, generations.read(store, recipe.name))):
            raise undone
        if options.lock:
            recorded.record(store, recipe)
        for entry in recipe.entries:
            step = one(entry, pins, lock, outputs, known(store))
            with fs.room(f"{entry.name}: can't write to the store `{store.root}`", also=ANOTHER):
                _trusted_inputs(step, store, say)
                result = _do(step, recipe, store, options, pins, lock, say)
            _trusted_pull(entry, pins, recipe, store, result.artifact, say)
            _licensed(recipe, {entry.name: result.artifact})
            outputs[entry.name] = result.artifact.digest
            results.append(result)
            assert step.key
            inputs = {n: d for n, d in step.inputs.items() if d}
            done[entry.name] = Locked(entry.stage, step.key, inputs, result.artifact.digest)
            store.tag(f"{recipe.name}/{entry.name}".lstrip("/"), result.artifact.digest)
            if options.lock and not options.locked:
                lockfile.write(options.lock, _trimmed(recipe, Lock(pins, done), lock))
            _gate(entry.name, result.artifact)
        if options.lock:
            _note(recipe, store, lock if options.locked else _trimmed(recipe, Lock(pins, done), lock), say)
    return results


def _note(recipe: Recipe, store: Store, lock: Lock, say: Say) -> None:
    """The run was good to its end: when it changed an output of the whole recipe, it made a generation."""
    if not generations.whole(lock, {e.name for e in recipe.whole or recipe.entries}):
        return
    before = generations.read(store, recipe.name).current
    after = generations.record(store, recipe.name, lock, receipt.now())
    if before and after.current != before:
        say(f"this is generation {after.current} of `{recipe.name}`; `hyb rollback` returns to {before}")


def rolled_back(recipe: Recipe, pins: Mapping[str, str], ledger: Ledger) -> HybError | None:
    """The error for a run that would undo a rollback without a word: the recipe is still that of a later generation.

    Told by keys, so it makes no difference whether the store still has the outputs. Pure.
    """
    if ledger.moving:
        return HybError(
            f"a rollback of `{recipe.name}` to generation {ledger.moving} was cut off in the middle",
            hint="`hyb rollback` ends it; then run again", code=Exit.CHECK,
        )  # fmt: skip
    now = ledger.now
    if now is None or _gives(recipe, pins, now.lock):
        return None
    for later in reversed([g for g in ledger.generations if g.number > now.number]):
        if _gives(recipe, pins, later.lock):
            return HybError(
                f"this would bring back generation {later.number} of `{recipe.name}`, which was rolled back to"
                f" {now.number}",
                hint=f"`hyb rollback --to {later.number}` goes forward to it; else change the recipe or its data, or"
                " take the earlier ones from version control",
                code=Exit.CHECK,
            )
    return None


def _gives(recipe: Recipe, pins: Mapping[str, str], lock: Lock) -> bool:
    """True when each stage of the recipe is the very step that a lock has."""
    given = generations.outputs(lock)
    for entry in recipe.entries:
        locked, inputs = lock.stages.get(entry.name), referenced(entry.spec)
        if (
            locked is None
            or any(n not in given for n in inputs)
            or any(s not in pins for s in written_sources(entry.spec))
        ):
            return False
        if key_of(entry.spec, pins, {n: given[n] for n in inputs}) != locked.key:
            return False
    return True


def _do(
    step: Step, recipe: Recipe, store: Store, options: Options, pins: Mapping[str, str], lock: Lock, say: Say
) -> Result:
    """One step, taken from the store or made."""
    name, stage, key = step.entry.name, step.entry.stage, step.key
    assert key, "steps above have run, so every input is known"
    if step.output:
        store.sweep(key)
        return Result(name, stage, store.artifact(step.output), cached=True)
    with store.locked_step(key, lambda: say(f"{name}: another hyb is at it; waiting")):
        made_meanwhile = next((d for d in store.outputs(key) if store.has(d)), None)
        if made_meanwhile:
            return Result(name, stage, store.artifact(made_meanwhile), cached=True)
        facts: dict[str, Any] = {}
        used = {s: pins[s] for s in written_sources(step.entry.spec)}
        context = Context(
            store, store.work(key), recipe.folder, options.offline or options.locked, used, say, facts.__setitem__,
            options.container, options.trained,
        )  # fmt: skip
        inputs = {n: store.artifact(d) for n, d in step.inputs.items() if d}
        about_host = receipt.host(recipe.host if options.host is None else options.host)
        started, clock = receipt.now(), time.monotonic()
        with engine.noting() as programs:
            artifact = stages.load(stage).run(step.entry.spec, inputs, context)
        seconds = time.monotonic() - clock
        here = {f"pkg:pypi/{intoto.normal(n)}": v for n, v in loaded.packages().items()}
        if options.locked and artifact.digest != lock.stages[name].output:
            raise HybError(
                f"{name}: made `{short(artifact.digest)}`, the lock says `{short(lock.stages[name].output)}`",
                hint="GPU training and sealing are not bit-exact: bring the locked output, or run without `--locked`",
                code=Exit.CHECK,
            )
        spec = step.entry.spec.model_dump(mode="json")
        document = receipt.statement(
            name=f"{recipe.name}/{name}".lstrip("/"),
            stage=stage,
            key=key,
            spec=spec,
            pins=used,
            inputs={n: a.digest for n, a in inputs.items()},
            output=artifact,
            started=started,
            ended=receipt.now(),
            facts={"seconds": round(seconds, 3), **facts},
            revision=stages.load(stage).REVISION,
            folders=receipt.materials(used, recipe.folder),
            programs={**here, **programs},
            about_host=about_host,
        )
        receipt.add(store, document, artifact)
        store.record_step(key, stage, artifact.digest)
        shutil.rmtree(context.work, ignore_errors=True)
        return Result(name, stage, artifact, cached=False, seconds=seconds)


def _trusted_inputs(step: Step, store: Store, say: Say) -> None:
    """Raise HybError (exit 4) when the trust policy refuses what an image or a service is to be made of."""
    if step.entry.stage not in ("pack", "serve"):
        return
    for name, digest in step.inputs.items():
        artifact = store.artifact(digest) if digest else None
        if artifact and artifact.kind in ("model", "adapter", "image"):
            gate.check(store, artifact, step.entry.stage, os.environ, names=[name], say=say)


def _trusted_pull(
    entry: Entry, pins: Mapping[str, str], recipe: Recipe, store: Store, artifact: Artifact, say: Say
) -> None:
    """Raise HybError (exit 4) when the trust policy refuses what was pulled: it gets no name then, and no lock."""
    if entry.stage == "pull":
        written = written_sources(entry.spec)
        called = [*written, *(pins[s] for s in written), f"{recipe.name}/{entry.name}".lstrip("/")]
        gate.check(store, artifact, "pull", os.environ, names=called, say=say)


def _licensed(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> None:
    """Raise HybError (exit 4) naming each model and data set that came in under a licence that the recipe does not
    allow, or under none that is known."""
    if recipe.licences is None:
        return
    wrong = []
    for entry in recipe.entries:
        artifact = artifacts.get(entry.name)
        if artifact is None or entry.stage not in ("pull", "data"):
            continue
        said = str(artifact.meta.get("license") or "")
        if not licences.allowed(said, recipe.licences):
            what = f"`{said}`, which is not allowed" if said else "not known"
            wrong.append(f"{entry.name}: the licence of this {artifact.kind} is {what}")
    if wrong:
        allowed = ", ".join(recipe.licences)
        raise HybError(wrong[0] if len(wrong) == 1 else f"`{recipe.name}` has licences that it does not allow",
                       details=wrong if len(wrong) > 1 else [], code=Exit.CHECK,
                       hint=f"`licences:` allows {allowed}; of a data set its stage says `license:`")  # fmt: skip


def _gate(name: str, artifact: Artifact) -> None:
    """A report that says no stops the chain; its report is in the store and in the lock."""
    if artifact.kind == "report" and artifact.meta.get("passed") is False:
        failed = [str(x) for x in artifact.meta.get("failed", ())]
        gate = ", ".join(f"{k} {v}" for k, v in artifact.meta.get("gate", {}).items())
        raise HybError(
            f"{name}: the gate failed ({gate})",
            hint=f"`hyb show {short(artifact.digest)}` shows the report",
            details=failed,
            code=Exit.CHECK,
        )


def _trimmed(recipe: Recipe, new: Lock, old: Lock) -> Lock:
    """Without stages that the recipe no longer has; a run `--to` a stage keeps what was known of the others."""
    names = {e.name for e in recipe.whole or recipe.entries}
    sources = {source for _, _, _, source in pin.written(recipe, all_of_it=True)}
    pins = {s: p for s, p in {**old.pins, **new.pins}.items() if s in sources}
    return replace(new, pins=pins, stages={n: s for n, s in new.stages.items() if n in names})


def _same(recipe: Recipe, pins: Mapping[str, str], lock: Lock, steps: list[Step]) -> None:
    """Raise HybError (exit 4) naming every way in which recipe, sources and lock differ."""
    wrong = [
        f"source `{s}` is `{p}`, locked as `{lock.pins.get(s, 'nothing')}`"
        for s, p in pins.items()
        if lock.pins.get(s) != p
    ]
    for step in steps:
        name, locked = step.entry.name, lock.stages.get(step.entry.name)
        if locked is None:
            wrong.append(f"stage `{name}` is not in the lock")
        elif step.key is not None and step.key != locked.key:
            wrong.append(f"stage `{name}` has changed since the lock was written")
        elif step.output is not None and step.output != locked.output:
            wrong.append(f"stage `{name}` is `{short(step.output)}` in the store, `{short(locked.output)}` in the lock")
    if wrong:
        raise HybError(
            f"the lock of `{recipe.name}` is stale", hint="`hyb run` writes it anew", details=wrong, code=Exit.CHECK
        )
