"""Which engine serves an artifact, and why. Pure but for reading manifests: what is given to the store is a lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hyb.artifact import Artifact, short
from hyb.errors import HybError
from hyb.formats import sealed

LLAMA, TRANSFORMERS, VLLM = "llama.cpp", "transformers", "vllm"
ENGINES = (LLAMA, TRANSFORMERS, VLLM)
NEEDS: dict[str, tuple[str, ...]] = {
    LLAMA: ("xllamacpp",),
    TRANSFORMERS: ("torch", "transformers"),
    VLLM: (),  # it lives in an environment of its own
}
"""Engine → Python modules that it can't do without."""
GATEWAY = ("starlette", "uvicorn", "httptools")
"""Python modules that the gateway needs, whatever the engine."""
EXTRA = {LLAMA: "serve", TRANSFORMERS: "tune,serve", VLLM: "serve"}
MODULE = {LLAMA: "hyb.serving.llama", TRANSFORMERS: "hyb.serving.hf", VLLM: "hyb.serving.vllm"}
CONTEXT = 4096
"""Tokens a request by default, or the model's own limit when that is less."""
PARALLEL = {LLAMA: 4, TRANSFORMERS: 1, VLLM: 256}


@dataclass(frozen=True)
class Choice:
    """An engine, why it, and what it is given."""

    engine: str
    why: str
    model: Artifact
    adapter: Artifact | None
    context: int
    """Tokens a request."""
    parallel: int
    adapters: tuple[tuple[str, Artifact], ...] = ()
    """(name, adapter) of those that requests may name."""


def choose(
    artifact: Artifact, lookup: Callable[[str], Artifact], *, engine: str = "auto", context: int = 0, parallel: int = 0,
    vllm: bool = False, adapters: Iterable[tuple[str, Artifact]] = (),
) -> Choice:  # fmt: skip
    """The engine for `artifact`: a model, an adapter, or an image or service made from a model.

    `lookup` gives the artifact of a digest. `context` and `parallel` 0 mean the defaults. `vllm`: this machine has a
    CUDA GPU and a vLLM. `adapters`: (name, adapter) of those to serve beside the model; an image brings its own, too.
    Raises HybError for an artifact that can't be served, or not by the engine that was asked for.
    """
    if sealed.is_sealed(artifact):
        raise sealed.locked(artifact)
    given, beside = artifact, [*_packed(artifact, lookup), *adapters]
    while artifact.kind in ("image", "service") and artifact.needs:
        artifact = lookup(str(artifact.meta.get("model") or artifact.needs[0]))
    adapter = artifact if artifact.kind == "adapter" else None
    model = lookup(artifact.needs[0]) if adapter and artifact.needs else artifact
    if model.kind != "model":
        raise HybError(
            f"`{short(given.digest)}` is a {given.kind}; a model, an adapter or an image of a model can be served",
            hint="`hyb ls` shows the kind of each",
        )
    dora = any(a.meta.get("dora") for a in (adapter, *(a for _, a in beside)) if a)
    best, why = _best(model, adapter, vllm and not dora)
    if engine == "auto":
        engine = best
    elif engine not in ENGINES:
        raise HybError(
            f"there is no engine `{engine}`", hint=f"choose `auto`, {' or '.join(f'`{e}`' for e in ENGINES)}"
        )
    elif engine != best and LLAMA in (engine, best):
        raise HybError(f"`{engine}` can't serve `{short(given.digest)}`: {why}", hint=_way(engine))
    if engine == VLLM and dora:
        raise HybError("vLLM can't put an adapter that was trained with DoRA on its base",
                       hint="`hyb export` merges it; or choose the transformers engine")  # fmt: skip
    if engine == TRANSFORMERS and parallel > 1:
        raise HybError(
            "the transformers engine answers one request at a time, in the order they came",
            hint="leave `parallel` out, or `hyb export … --format gguf` for the llama.cpp engine",
        )
    _check_beside(model, adapter, beside, lookup)
    tokens = _context(model, context)
    return Choice(engine, why, model, adapter, tokens, parallel or PARALLEL[engine], tuple(beside))


def _packed(artifact: Artifact, lookup: Callable[[str], Artifact]) -> list[tuple[str, Artifact]]:
    """The adapters that an image has on top of its model."""
    while artifact.kind == "service" and artifact.needs:
        artifact = lookup(artifact.needs[0])
    return [(str(a["name"]), lookup(str(a["digest"]))) for a in artifact.meta.get("adapters") or ()]


def _check_beside(
    model: Artifact, part: Artifact | None, beside: list[tuple[str, Artifact]], lookup: Callable[[str], Artifact]
) -> None:
    """Raise HybError with all that is wrong with adapters that are to be served beside a model."""
    if part and beside:
        raise HybError(
            f"`{short(part.digest)}` is an adapter; it can't have others beside it",
            hint="serve the base model, with `--adapter` for each",
        )
    wrong = [text for name, adapter in beside if (text := misfit(model, name, adapter, lookup))]
    names = [name for name, _ in beside]
    wrong += [f"two adapters are called `{name}`" for name in sorted(set(names)) if names.count(name) > 1]
    if wrong:
        raise HybError(wrong[0], details=wrong if len(wrong) > 1 else (), hint=_remedy(model))


def misfit(model: Artifact, name: str, adapter: Artifact, lookup: Callable[[str], Artifact]) -> str:
    """Why an adapter can't be put on a model; "" when it can.

    Its base must be the model, or what the model was converted from; a model that an adapter was merged into is
    another base.
    """
    if adapter.kind != "adapter":
        return f"`{name}` is a {adapter.kind}, no adapter"
    form = "gguf" if adapter.meta.get("format") == "gguf" else "safetensors"
    if form != model.meta.get("format", "safetensors"):
        return f"adapter `{name}` is {form}, and the model {model.meta.get('format')}"
    base = str(adapter.meta.get("base") or (adapter.needs[0] if adapter.needs else ""))
    if base in origins(model, lookup):
        return ""
    of = f"`{short(base)}`" if base else "no base that is known"
    return f"adapter `{name}` was made for {of}, another base than this model `{short(model.digest)}`"


def origins(model: Artifact, lookup: Callable[[str], Artifact]) -> set[str]:
    """Digests of the model, and of those that it was converted from."""
    found = {model.digest}
    while (base := model.meta.get("base")) and not model.meta.get("adapter") and base not in found:
        found.add(str(base))
        try:
            model = lookup(str(base))
        except HybError:  # not in this store; its digest is enough
            break
    return found


def _remedy(model: Artifact) -> str:
    if model.meta.get("format") == "gguf":
        return "`hyb export ADAPTER --format lora-gguf` makes one for a GGUF of the base that it was trained on"
    return "serve the model that it was trained on"


def gguf_path(model: Artifact) -> str:
    """The path of the model's one GGUF file. Raises HybError when it has none, or several."""
    found = [f.path for f in model.files if f.path.endswith(".gguf")]
    if len(found) != 1:
        raise HybError(f"model `{short(model.digest)}` has {len(found)} GGUF files; one can be served")
    return found[0]


def _best(model: Artifact, adapter: Artifact | None, vllm: bool) -> tuple[str, str]:
    if vllm and model.meta.get("format") != "gguf":
        return VLLM, f"{'an adapter' if adapter else 'a safetensors model'}, and here are a CUDA GPU and vLLM"
    if adapter:
        return TRANSFORMERS, "an adapter is put on its base model when that is loaded"
    if model.meta.get("format") == "gguf":
        return LLAMA, "the model is a GGUF"
    return TRANSFORMERS, "the model is a safetensors folder"


def _way(engine: str) -> str:
    if engine == LLAMA:
        return "`hyb export … --format gguf` makes what llama.cpp reads"
    return "serve the safetensors model that the GGUF was made from"


def _context(model: Artifact, asked: int) -> int:
    limit = model.meta.get("context")
    most = limit if isinstance(limit, int) and limit > 0 else None
    if most and asked > most:
        raise HybError(f"a context of {asked} tokens was asked for; the model was made for {most}")
    return asked or min(CONTEXT, most or CONTEXT)
