"""Which engine serves an artifact, and why. Pure but for reading manifests: what is given to the store is a lookup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyb.artifact import Artifact, short
from hyb.errors import HybError

LLAMA, TRANSFORMERS, VLLM = "llama.cpp", "transformers", "vllm"
ENGINES = (LLAMA, TRANSFORMERS, VLLM)
NEEDS: dict[str, tuple[str, ...]] = {
    LLAMA: ("xllamacpp",),
    TRANSFORMERS: ("torch", "transformers", "starlette", "uvicorn"),
    VLLM: (),  # it lives in an environment of its own
}
"""Engine → Python modules that it can't do without."""
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


def choose(
    artifact: Artifact, lookup: Callable[[str], Artifact], *, engine: str = "auto", context: int = 0, parallel: int = 0,
    vllm: bool = False,
) -> Choice:  # fmt: skip
    """The engine for `artifact`: a model, an adapter, or an image or service made from a model.

    `lookup` gives the artifact of a digest. `context` and `parallel` 0 mean the defaults. `vllm`: this machine has a
    CUDA GPU and a vLLM.
    Raises HybError for an artifact that can't be served, or not by the engine that was asked for.
    """
    given = artifact
    while artifact.kind in ("image", "service") and artifact.needs:
        artifact = lookup(str(artifact.meta.get("model") or artifact.needs[0]))
    adapter = artifact if artifact.kind == "adapter" else None
    model = lookup(artifact.needs[0]) if adapter and artifact.needs else artifact
    if model.kind != "model":
        raise HybError(
            f"`{short(given.digest)}` is a {given.kind}; a model, an adapter or an image of a model can be served",
            hint="`hyb ls` shows the kind of each",
        )
    best, why = _best(model, adapter, vllm)
    if engine == "auto":
        engine = best
    elif engine not in ENGINES:
        raise HybError(
            f"there is no engine `{engine}`", hint=f"choose `auto`, {' or '.join(f'`{e}`' for e in ENGINES)}"
        )
    elif engine != best and LLAMA in (engine, best):
        raise HybError(f"`{engine}` can't serve `{short(given.digest)}`: {why}", hint=_way(engine))
    if engine == TRANSFORMERS and parallel > 1:
        raise HybError(
            "the transformers engine answers one request at a time, in the order they came",
            hint="leave `parallel` out, or `hyb export … --format gguf` for the llama.cpp engine",
        )
    return Choice(engine, why, model, adapter, _context(model, context), parallel or PARALLEL[engine])


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
