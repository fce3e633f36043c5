"""`hyb verify --running`: the model that a live server says it serves is the one that a recipe's lock names.

hyb's gateway tells the digest of its model, and of each adapter, in `/v1/models`. What that proves: nobody exchanged
the model by mistake, forgot to restart, or rolled back one side. What it does not prove: that a server which lies tells
the truth. For a service of this machine its files are hashed, too, so there nothing is taken on trust but the process
itself; for one elsewhere the answer is as good as the TLS and the host behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import lock as lockfile
from hyb import recipe as recipes
from hyb.artifact import Artifact, blobs_of, short
from hyb.errors import Exit, HybError
from hyb.lock import Lock
from hyb.progress import Say
from hyb.recipe import Recipe
from hyb.serving import manager
from hyb.serving.client import Client
from hyb.serving.endpoint import Endpoint
from hyb.store import Store


@dataclass(frozen=True)
class Locked:
    """What a lock says is to be served: a stage of the recipe, its model, its adapters by digest."""

    stage: str
    model: str
    adapters: tuple[str, ...] = ()


def check(endpoint: Endpoint, path: Path, store: Store, environ: Mapping[str, str], say: Say) -> dict[str, Any]:
    """Ask the server and compare. Returns what was found, for people and scripts.

    Raises HybError: exit 3 for a recipe whose lock names no model, exit 4 for every difference, exit 5 when the server
    does not answer.
    """
    recipe, lock = recipes.read(path), lockfile.read(path.with_name(lockfile.FILE))
    wanted = locked(recipe, lock, store)
    with Client(endpoint.address, timeout=30) as client:
        listed = client.json("GET", "models").get("data")
    entries = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    if wrong := differences(entries, wanted, known(lock, store)):
        raise HybError(f"`{endpoint.name}` does not serve what the lock of `{recipe.name}` names", details=wrong,
                       hint=f"serve it anew: `hyb serve {recipe.name}/{wanted.stage}`", code=Exit.CHECK)  # fmt: skip
    hashed = _hashed(endpoint, [wanted.model, *(str(e["digest"]) for e in entries[1:])], store, environ, say)
    return {"server": endpoint.name, "recipe": recipe.name, "stage": wanted.stage, "model": wanted.model,
            "adapters": [e["digest"] for e in entries[1:]], "files_hashed": hashed}  # fmt: skip


def locked(recipe: Recipe, lock: Lock, store: Store) -> Locked:
    """What the lock says is to be served: by its last stage that makes a service, an image, or else a model."""
    for kinds in (("service", "image"), ("model", "adapter")):
        for entry in reversed(recipe.entries):
            found = lock.stages.get(entry.name)
            if found is None or not store.blob_path(found.output).exists():
                continue
            artifact = store.artifact(found.output)
            if artifact.kind in kinds and (model := _model(artifact)):
                return Locked(entry.name, model, _adapters(artifact, store))
    raise HybError(f"the lock of `{recipe.name}` names no model that the store has",
                   hint="`hyb run` makes it; or give the store with `--store DIR`")  # fmt: skip


def known(lock: Lock, store: Store) -> dict[str, str]:
    """Digest → stage, of all that the lock names; and of what the images and services among that hold."""
    found = {}
    for name, stage in lock.stages.items():
        found[stage.output] = name
        if store.blob_path(stage.output).exists():
            found |= dict.fromkeys(_adapters(store.artifact(stage.output), store), name)
    return found


def differences(entries: Sequence[Mapping[str, Any]], wanted: Locked, names: Mapping[str, str]) -> list[str]:
    """How `/v1/models` differs from what is wanted, a line each. Pure."""
    if not entries:
        return ["it lists no model"]
    told, wrong = str(entries[0].get("digest") or ""), []
    if not told:
        return ["it tells no digest of its model: it is no server of hyb's, or an old one"]
    if told != wanted.model:
        what = f" (stage `{names[told]}`)" if told in names else ", which the lock does not name"
        wrong.append(f"its model is `{short(told)}`{what}; the lock names `{short(wanted.model)}`")
    served = {str(e.get("digest") or ""): str(e.get("id")) for e in entries[1:]}
    wrong += [
        f"adapter {i!r} is `{short(d)}`, which the lock does not name" for d, i in served.items() if d not in names
    ]
    return wrong + [f"adapter `{short(d)}` is not served" for d in wanted.adapters if d not in served]


def _model(artifact: Artifact) -> str:
    if artifact.kind == "model":
        return artifact.digest
    if artifact.kind == "adapter":
        return artifact.needs[0] if artifact.needs else ""
    return str(artifact.meta.get("model") or "")


def _adapters(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """The adapters that an image, or the image of a service, holds."""
    if artifact.kind == "service":
        images = [store.artifact(d) for d in artifact.needs if store.blob_path(d).exists()]
        return tuple(d for image in images for d in _adapters(image, store))
    listed = artifact.meta.get("adapters") if artifact.kind == "image" else None
    return tuple(str(a["digest"]) for a in listed if isinstance(a, dict)) if isinstance(listed, (list, tuple)) else ()


def _hashed(endpoint: Endpoint, digests: Sequence[str], store: Store, environ: Mapping[str, str], say: Say) -> int:
    """Hash the served files of a service of this machine; how many there were, 0 for a server elsewhere."""
    local = endpoint.service or next((x for x in manager.ps(environ) if _same(x.url, endpoint.address.url)), None)
    if local is None:
        say("the server is not one of this machine's: its own word is all there is")
        return 0
    artifacts = [store.artifact(d) for d in digests if store.blob_path(d).exists()]
    blobs = {b.digest: b for a in artifacts for b in blobs_of(a)}
    for blob in blobs.values():
        store.check(blob, thorough=True)
    return len(blobs)


def _same(one: str, other: str) -> bool:
    return one.rstrip("/").removesuffix("/v1") == other.rstrip("/").removesuffix("/v1")
