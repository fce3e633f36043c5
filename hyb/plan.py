"""Recipe + pins + what is known of the store → steps.

Pure: `--dry-run` prints it, the run does that and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyb import digest as dg
from hyb import stages
from hyb.artifact import Artifact
from hyb.formats.tune_cost import Machine
from hyb.lock import Lock
from hyb.recipe import Entry, Recipe
from hyb.stages.base import StagePlan, StageSpec, referenced, refs, sources, written_in


@dataclass(frozen=True)
class Known:
    """What the planner may ask of the store: a step key's output if it is whole, and an artifact by digest."""

    outputs: Callable[[str], list[str]]
    """Step key → the outputs that it gave, newest first."""
    whole: Callable[[str], bool]
    """Digest → all of it is in the store."""
    artifact: Callable[[str], Artifact]
    config: Callable[[str], Mapping[str, Any] | None] = lambda _: None
    """Digest of a model → its config.json."""
    machine: Callable[[str], Machine] | None = None
    """Device (auto, cuda, cpu) → what this machine has of it; None: costs are not asked for."""


@dataclass(frozen=True)
class Step:
    """One stage, ready to be looked at.

    `key` is None while an input is not made or a source not pinned; `output` is None when it must run.
    """

    entry: Entry
    inputs: Mapping[str, str | None]
    key: str | None
    output: str | None
    plan: StagePlan

    @property
    def done(self) -> bool:
        """True when the store has the result."""
        return self.output is not None


def plan(recipe: Recipe, pins: Mapping[str, str], lock: Lock, known: Known) -> list[Step]:
    """The steps in run order."""
    outputs: dict[str, str | None] = dict(recipe.given)
    steps: list[Step] = []
    foreseen: dict[str, Mapping[str, Any] | None] = {}
    for entry in recipe.entries:
        step = one(entry, pins, lock, outputs, known, foreseen)
        outputs[entry.name], foreseen[entry.name] = step.output, step.plan.foresees
        steps.append(step)
    return steps


def one(
    entry: Entry,
    pins: Mapping[str, str],
    lock: Lock,
    outputs: Mapping[str, str | None],
    known: Known,
    foreseen: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> Step:
    """One step, given the outputs of those above it (None where not made yet) and what these foresee."""
    inputs = {name: outputs[name] for name in referenced(entry.spec)}
    whole = {n: d for n, d in inputs.items() if d is not None}
    settled = len(whole) == len(inputs) and all(s in pins for s in written_sources(entry.spec))
    key = key_of(entry.spec, pins, whole) if settled else None
    artifacts = {n: known.artifact(d) if d else None for n, d in inputs.items()}
    output = _output(entry.name, key, lock, known) if key else None
    planned = stages.load(entry.stage).plan(entry.spec, artifacts)
    if known.machine and hasattr(stages.load(entry.stage), "on_machine"):
        configs = {n: known.config(d) if d else (foreseen or {}).get(n) for n, d in inputs.items()}
        device = getattr(entry.spec, "device", "auto")
        planned = stages.load(entry.stage).on_machine(entry.spec, artifacts, configs, planned, known.machine(device))
    return Step(entry, inputs, key, output, planned)


def key_of(spec: StageSpec, pins: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """A step's key: the digest of (stage, REVISION, spec with sources pinned and references as digests).

    Names of stages and places of files are not in it: a renamed stage is the same step. Nor are fields that have their
    default, so that an option that is new does not make every step new; a default that changes raises REVISION.
    """
    values: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    for field in refs(type(spec)).keys() & values.keys():
        values[field] = _digests(values[field], inputs)
    for field, marker in sources(type(spec)).items():
        value = values.get(field)
        if isinstance(value, list):
            values[field] = sorted({pins[source] for source in value})
        elif isinstance(value, str) and value:
            values[field] = _content(pins[value]) if marker.kind == "model" else pins[value]
    revision = stages.load(spec.stage).REVISION
    return dg.of_json({"stage": spec.stage, "revision": revision, "spec": values})


def _digests(value: Any, inputs: Mapping[str, str]) -> Any:
    """Names of stages as the digests of what they gave; a mapping keeps the names, too, for its stage uses them."""
    if isinstance(value, dict):
        return {name: [inputs[name], more] for name, more in value.items()}
    return [inputs[n] for n in value] if isinstance(value, list) else inputs[value] if value else value


def _content(pinned: str) -> str:
    """What of a pinned source counts for a key: of a folder or layout on disk only the digest, not the place."""
    if pinned.startswith("file:"):
        return pinned.rpartition("#")[2]
    if pinned.startswith("oci:") and not pinned.startswith("oci://"):
        return pinned.rpartition("@")[2]
    return pinned


def written_sources(spec: StageSpec) -> list[str]:
    """The sources that a spec names."""
    return [source for field in sources(type(spec)) for source in written_in(getattr(spec, field))]


def _output(name: str, key: str, lock: Lock, known: Known) -> str | None:
    """An output that this key really gave: the lock's choice if it is one of them, else the newest that is whole."""
    outputs = known.outputs(key)
    locked = lock.stages.get(name)
    if locked and locked.key == key and locked.output in outputs:
        outputs = [locked.output, *outputs]
    return next((d for d in outputs if known.whole(d)), None)
