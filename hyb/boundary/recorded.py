"""The boundaries that recipes said, kept beside their artifacts, so that `hyb push` knows what may leave.

    STORE/boundaries.json    {recipe: {class: word}}, written by each run of a recipe

A boundary holds for what the recipe's names stand for and for all that was made of it, under whatever name or digest. A
recipe that says nothing of a boundary restricts nothing here; a registry on loopback is not outside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from hyb import fs
from hyb.artifact import Artifact
from hyb.digest import is_digest
from hyb.errors import Exit, HybError
from hyb.formats import sealed
from hyb.formats.boundary import Boundary, parse
from hyb.recipe import Recipe
from hyb.store import Store

FILE = "boundaries.json"
_CLASSES = {"dataset": "data", "report": "data", "model": "weights", "image": "weights", "adapter": "adapter"}
"""Kind of artifact → class. An image of hyb's holds a model; a report quotes questions and answers."""


def record(store: Store, recipe: Recipe) -> None:
    """Keep what a recipe says now; nothing is written when it is known already, or into a read-only store."""
    known = _read(store)
    said = recipe.boundary.as_dict() if recipe.boundary else None
    if known.get(recipe.name) == said:
        return
    if store.root.exists() and not os.access(store.root, os.W_OK):
        return  # a store that can only be read is somebody else's: what was recorded there holds
    with store.writing(), fs.locked(store.root / "locks" / "boundaries"):
        known = {name: value for name, value in _read(store).items() if name != recipe.name}
        if said:
            known[recipe.name] = said
        fs.write_atomic(store.root / FILE, json.dumps(known, indent=1, sort_keys=True).encode())


def check_push(store: Store, artifacts: list[Artifact], host: str) -> None:
    """Raise HybError (exit 4) when a recorded boundary forbids that one of these goes to a registry at `host`."""
    from hyb.hub.registry_auth import is_loopback  # a push alone needs it: every run imports this module

    known = _read(store)
    if not known or is_loopback(host):
        return
    wrong = []
    for artifact in artifacts:
        for recipe in _recipes(store, artifact):
            limits = parse(known.get(recipe, {}))[0]
            for kind, closed in _held(artifact) if recipe in known else ():
                if limits.forbids(kind, signed=_signed(store, artifact, limits, kind), sealed=closed):
                    wrong.append(f"boundary of `{recipe}`: {kind}: {_word(limits, kind)}; this is its {artifact.kind}")
    if wrong:
        raise HybError(
            f"`{host}` is outside, and the boundary says that this must not leave", details=list(dict.fromkeys(wrong)),
            hint="push to a registry on this host, or change `boundary:` in the recipe and run it", code=Exit.CHECK,
        )  # fmt: skip


def _held(artifact: Artifact) -> list[tuple[str, bool]]:
    """(class, it is in encrypted layers alone) of what an artifact holds."""
    kind, (model, adapters) = _CLASSES.get(artifact.kind, ""), sealed.covers(artifact)
    beside = [("adapter", adapters)] if artifact.kind == "image" and artifact.meta.get("adapters") else []
    return [(kind, model), *beside] if kind else []


def mistakes(store: Store) -> list[str]:
    """What is wrong with the record, a line or none."""
    try:
        _read(store)
    except HybError as error:
        return [f"{error.message}; {error.hint}"]
    return []


def _word(limits: Boundary, kind: str) -> str:
    word = limits.as_dict()[kind]
    missing = {
        "signed": "signed, and it has no signature by a key of your trust policy (`hyb sign`, docs/signing.md)",
        "sealed": "sealed, and this lies in the clear",
    }
    return missing.get(word, word)


def _signed(store: Store, artifact: Artifact, limits: Boundary, kind: str) -> bool:
    """True when that is what the boundary asks for, and a key that the trust policy has signed the artifact."""
    if limits.as_dict()[kind] != "signed":
        return False
    from hyb.signing import policy  # a push of what must be signed alone needs it

    return bool(policy.signed(store, artifact, os.environ))


def _recipes(store: Store, artifact: Artifact) -> list[str]:
    """The recipes that this artifact, or anything that it was made of, has a name of."""
    names: dict[str, list[str]] = {}
    for tag, digest in store.tags().items():
        names.setdefault(digest, []).append(tag.rpartition("/")[0])
    listed, seen = set(store.digests()), set[str]()
    todo = [artifact]
    while todo:
        one = todo.pop()
        seen.add(one.digest)
        for digest in {*one.needs, one.subject or "", *_digests(dict(one.meta))} - seen:
            if digest in listed:
                todo.append(store.artifact(digest))
    return sorted({name for digest in seen for name in names.get(digest, ()) if name})


def _digests(value: Any) -> Iterator[str]:
    """Every digest within a JSON value."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _digests(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _digests(each)
    elif isinstance(value, str) and is_digest(value):
        yield value


def _read(store: Store) -> dict[str, dict[str, str]]:
    """What is recorded. Raises HybError (exit 4) when the file is damaged: nobody would know what may leave."""
    path = store.root / FILE
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or any(parse(value)[1] for value in found.values()):
            raise ValueError("not what hyb writes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise HybError(
            f"`{path}` is damaged: {error}", hint="remove it; the next `hyb run` of each recipe writes it anew",
            code=Exit.CHECK,
        ) from error  # fmt: skip
    return found
