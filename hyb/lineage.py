"""What a model was made from, and what follows of it: which exams speak of it, which adapters fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyb.artifact import Artifact, short
from hyb.errors import Exit, HybError
from hyb.store import Store


def check_gates(
    reports: Mapping[str, Artifact],
    model_name: str,
    model: Artifact,
    store: Store,
    adapters: Iterable[Artifact] = (),
) -> None:
    """Raise HybError (exit 4) naming every exam that was failed, or that examined something else.

    An exam of an adapter that is packed, or of the one that it was converted from, is one of this image.
    """
    examined = lineage(model, store)
    examined |= {d for a in adapters for d in (a.digest, str(a.meta.get("adapter", ""))) if d}
    details: list[str] = []
    no: list[str] = []
    for name, report in reports.items():
        if report.subject not in examined:
            no.append(name)
            what = f"`{short(report.subject)}`" if report.subject else "nothing that it names"
            details.append(f"{name}: it examined {what}, which is neither `{model_name}` nor what it was made from")
        elif report.meta.get("passed") is not True:
            no.append(name)
            details += [f"{name}: {text}" for text in report.meta.get("failed", ())] or [f"{name}: it was not passed"]
    if no:
        raise HybError(
            f"`{model_name}` is not packed: {', '.join(f'`{n}`' for n in no)} said no",
            hint=f"`hyb show {no[0]}` has every question and answer; mend the model, or examine this one",
            code=Exit.CHECK,
            details=details,
        )


def check_adapters(adapters: Mapping[str, Artifact], model_name: str, model: Artifact, store: Store) -> None:
    """Raise HybError (exit 3) naming every adapter that was trained on another model, or is of another format."""
    known, gguf = lineage(model, store), model.meta.get("format") == "gguf"
    no = []
    for name, adapter in adapters.items():
        base = str(adapter.meta.get("base") or next(iter(adapter.needs), ""))
        if not base or base not in known:
            no.append(f"{name}: it was trained on `{short(base)}`, not on `{model_name}` or its original")
        elif gguf and adapter.meta.get("format") != "gguf":
            no.append(
                f"{name}: the model is a GGUF, so make one of the adapter: `hyb export {name} --format lora-gguf`"
            )
        elif not gguf and adapter.meta.get("format") == "gguf":
            no.append(f"{name}: it is a GGUF and the model is not; pack the adapter that it was made from")
    if no:
        hint = "pack each adapter with the model that it was trained on, as GGUF or as safetensors both"
        raise HybError(f"`{model_name}` can't be packed with these adapters", hint=hint, details=no)


def lineage(model: Artifact, store: Store) -> set[str]:
    """The model's digest and those of what it was made from, as far as an exam of them speaks of it, too.

    A merge or a quantization keeps what was learnt; so an exam of the adapter counts, or of the model that was
    converted. An exam of the base below an adapter doesn't: tuning changed the answers.
    """
    found = {model.digest}
    while True:
        adapter, base = model.meta.get("adapter"), model.meta.get("base")
        found |= {adapter} if isinstance(adapter, str) else set()
        if not isinstance(base, str) or base in found or not store.blob_path(base).exists():
            return found | ({base} if isinstance(base, str) and not adapter else set())
        model = store.artifact(base)
        if model.kind != "model" or (adapter and model.meta.get("adapter") != adapter):
            return found  # the base that the adapter was trained on
        found.add(base)
