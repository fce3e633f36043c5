"""The stage contract.

A stage is a module with

    SUMMARY   one line
    REVISION  int; raised when the same input would now give another output
    Spec      what a person wrote: a pydantic model, extra keys forbidden
    plan(spec, inputs) -> StagePlan              pure: what will be read, made, run, opened, and what it costs
    run(spec, inputs, context) -> Artifact       the effects

`inputs` maps the names that the spec's `Ref` fields hold to artifacts; at plan time a value is None when that
artifact is not made yet. A step's key is the digest of stage, REVISION, spec with sources pinned, and input digests.

A stage whose costs depend on the machine has one more name, `on_machine(spec, inputs, configs, plan, machine)`: the
same plan with the costs here. `configs` maps the names of models to their config.json, as far as it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.progress import Say, silent
from hyb.store import Store

Inputs = Mapping[str, Artifact]
MaybeInputs = Mapping[str, Artifact | None]


@dataclass(frozen=True)
class Ref:
    """Marks a spec field that names a stage above (or several: a list, or the keys of a mapping):
    `Annotated[str, Ref("model", "adapter")]`.

    `kinds` are the artifact kinds it takes.
    """

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)


@dataclass(frozen=True)
class Source:
    """Marks a spec field that is pinned before the run: `kind` "model" (hf://, pypi://, oci:, file:, a short name)
    or "path" (a file or folder beside the recipe, or a list of them)."""

    kind: str


class StageSpec(BaseModel):
    """The base of every Spec. Numbers are finite, unknown keys are mistakes, a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False, validate_default=True)

    stage: str

    def makes(self) -> str:
        """The kind of artifact that this step makes, where it is not always that of `hyb.stages.KINDS`; else ""."""
        return ""


@dataclass(frozen=True)
class StagePlan:
    """What a step will do, before it does it. Texts are one line each; None means not known yet."""

    makes: str
    reads: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    disk: int | None = None
    """Bytes written."""
    memory: int | None = None
    """Bytes resident at the peak."""
    seconds: float | None = None
    rate: float | None = None
    """Tokens a second."""
    notes: tuple[str, ...] = ()
    """What a person should know before it runs: what does not fit, and what would."""
    foresees: Mapping[str, Any] | None = None
    """Of a model: what its config.json will say, where that is known before it is here."""


@dataclass(frozen=True)
class Context:
    """What a run may touch."""

    store: Store
    work: Path
    """A folder of this step alone; it outlives a kill and is removed when the step is done."""
    folder: Path = Path()
    """Where the spec's relative paths start: the recipe's folder."""
    offline: bool = False
    pins: Mapping[str, str] = field(default_factory=dict)
    """Source as written → immutable source."""
    say: Say = silent
    record: Callable[[str, Any], None] = lambda _name, _value: None
    """Notes a measured fact (seconds, tokens/s) for the receipt; such facts never go into the artifact."""
    container: str = ""
    """An image of Podman's in which workers are to run; "": here. What comes out of a step does not depend on it."""
    trained: Path | None = None
    """A folder with what `hyb tune --trainjob` wrote and its run gave, to be taken instead of training here."""

    def path(self, text: str) -> Path:
        """A path of the spec as a real one."""
        return self.folder / Path(text).expanduser()


class Stage(Protocol):
    """The type of a stage module."""

    SUMMARY: str
    REVISION: int
    Spec: type[Any]

    def plan(self, spec: Any, inputs: MaybeInputs) -> StagePlan:
        """See the module's docstring."""
        ...

    def run(self, spec: Any, inputs: Inputs, context: Context) -> Artifact:
        """See the module's docstring."""
        ...

    on_machine: Callable[..., StagePlan]
    """Only some have it; see the module's docstring."""


def refs(spec: type[BaseModel]) -> dict[str, Ref]:
    """The fields of a Spec that name stages."""
    return {n: m for n, f in spec.model_fields.items() for m in f.metadata if isinstance(m, Ref)}


def sources(spec: type[BaseModel]) -> dict[str, Source]:
    """The fields of a Spec that are pinned."""
    return {n: m for n, f in spec.model_fields.items() for m in f.metadata if isinstance(m, Source)}


def written_in(value: object) -> list[str]:
    """The sources that a field marked as `Source` names: one, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and v]


def referenced(spec: BaseModel) -> list[str]:
    """The stage names that a spec refers to, in order, once each."""
    names: list[str] = []
    for name in refs(type(spec)):
        value = getattr(spec, name)
        names += value if isinstance(value, (list, tuple, dict)) else [value] if value else []
    return list(dict.fromkeys(names))


def base_of(artifact: Artifact, store: Store) -> Artifact:
    """The model that an adapter was trained on. Raises HybError (exit 4) when it is not in the store."""
    if not artifact.needs:
        raise HybError(f"adapter `{artifact.digest}` names no base model", code=Exit.CHECK)
    return store.artifact(artifact.needs[0])
