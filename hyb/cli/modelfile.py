"""The Modelfile that `hyb show --out` puts beside a GGUF: what Ollama needs to take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.store import Store

NAME = "Modelfile"


def modelfile(artifact: Artifact, store: Store) -> str:
    """Its text; empty for what is no GGUF. What only the model's own files say is taken from the base in the store."""
    from hyb.formats import modelfile as text

    ggufs = [f for f in artifact.files if f.path.endswith(".gguf") and "/" not in f.path]
    if artifact.kind not in ("model", "adapter") or len(ggufs) != 1:
        return ""
    base = _own(artifact, store)
    generation = _json(base, "generation_config.json", store)
    license = _license(base, store) or str(artifact.meta.get("license") or "")
    context = int(artifact.meta.get("context") or (base.meta.get("context") if base else 0) or 0)
    if artifact.kind == "adapter":
        shown = text.render(
            jinja=_template(base, store), context=context, generation=generation, license=license,
            adapter=f"./{ggufs[0].path}",
        )  # fmt: skip
        return "# put the GGUF of the adapter's base beside this file, as model.gguf\n" + shown
    from hyb.hub import checks

    header = checks.gguf(store.blob_path(ggufs[0].blob.digest), ggufs[0].path)
    jinja = str(header.metadata.get("tokenizer.chat_template", ""))
    return text.render(jinja=jinja, context=context, generation=generation, license=license, model=f"./{ggufs[0].path}")


def _own(artifact: Artifact, store: Store) -> Artifact | None:
    """The safetensors model that it was made from, when it is in the store."""
    digest = artifact.meta.get("base")
    return store.artifact(digest) if digest and store.has(digest) else None


def _json(base: Artifact | None, name: str, store: Store) -> dict[str, Any]:
    import json

    if base is None or not any(f.path == name for f in base.files):
        return {}
    found: dict[str, Any] = json.loads(store.read(base.file(name).blob.digest))
    return found


def _template(base: Artifact | None, store: Store) -> str:
    from hyb import templates
    from hyb.formats.gguf_vocab import template

    if base is None:
        return ""
    names = {f.path for f in base.files}
    file = "chat_template.jinja"
    text = store.read(base.file(file).blob.digest).decode() if file in names else ""
    return templates.inference_of(template(_json(base, "tokenizer_config.json", store), text))


def _license(base: Artifact | None, store: Store) -> str:
    """The text of the model's licence file; empty when there is none."""
    files = [f for f in base.files if f.path.upper() in ("LICENSE", "LICENSE.TXT", "LICENSE.MD")] if base else []
    return store.read(files[0].blob.digest).decode(errors="replace") if files else ""
