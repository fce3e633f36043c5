"""What an auditor is told of a recipe: facts of its lock and of the store, gathered once for the page. Reads only."""

from __future__ import annotations

import base64
import json

from hyb import lock as lockfile
from hyb.artifact import File
from hyb.attest import sbom
from hyb.attest.trace import read, referrers, trace
from hyb.errors import HybError
from hyb.formats.audit import DSSE, FILES, SIMPLE, Audit, Bundle, Exam
from hyb.formats.lineage import mapping
from hyb.formats.oci import SIMPLE_SIGNING
from hyb.recipe import Recipe
from hyb.store import Store


def outputs(recipe: Recipe) -> dict[str, str]:
    """Stage → digest of its output, of the recipe's lock. Raises HybError (exit 3) when nothing has run."""
    found = _outputs(recipe, lockfile.read(recipe.folder / lockfile.FILE))
    if not found:
        raise HybError(f"nothing of `{recipe.name}` has run yet", hint=f"`hyb run {recipe.folder}` writes its lock")
    return found


def _outputs(recipe: Recipe, lock: lockfile.Lock) -> dict[str, str]:
    return {e.name: lock.stages[e.name].output for e in recipe.entries if e.name in lock.stages}


def gather(recipe: Recipe, store: Store) -> Audit:
    """The facts. Raises HybError: exit 3 when nothing has run or the extra `sbom` is missing; exit 4 for a lock or an
    index that can't be read."""
    import hyb

    made, lock = outputs(recipe), lockfile.read(recipe.folder / lockfile.FILE)
    lineage = trace(store, made.values())
    artifacts = {d: a for d in lineage.nodes if (a := read(store, d))}
    wrong = [
        f"{name}: the lock says that step `{lock.stages[name].key[7:19]}` made it, its receipt says another"
        for name, digest in made.items()
        if lineage.nodes[digest].receipt and lineage.nodes[digest].key != lock.stages[name].key
        and not _said(store, digest, lock.stages[name].key)
    ]  # fmt: skip
    exams = [
        Exam(name, d, sbom.report_of(store, artifacts[d]), mapping(artifacts[d].meta.get("gate")))
        for name, d in made.items()
        if d in artifacts and artifacts[d].kind == "report" and "scores" in artifacts[d].meta
    ]
    titles = {d: n.title for d, n in lineage.nodes.items()}
    return Audit(
        name=recipe.name,
        stages=tuple((e.name, e.stage, made.get(e.name, "")) for e in recipe.entries),
        lineage=lineage,
        licences=tuple(
            (titles[d], d, str(a.meta.get("license") or "")) for d, a in artifacts.items()
            if a.kind in ("model", "dataset", "adapter")
        ),
        allowed=recipe.licences,
        exams=tuple(exams),
        boundary=recipe.boundary.as_dict() if recipe.boundary else None,
        files=tuple((titles[d], f.path, f.blob.digest, f.blob.size) for d, a in artifacts.items() for f in a.files),
        statements="".join(store.read(n.statement).decode() + "\n" for n in lineage.nodes.values() if n.statement),
        bom=sbom.dump(sbom.bom(store, lineage, recipe.name)),
        bundles={
            s.digest: _bundle(store, a.files[0])
            for n in lineage.nodes.values() for s in n.signatures
            if (a := read(store, s.digest)) and a.files
        },
        problems=(*lineage.problems, *wrong),
        hyb=hyb.__version__,
    )  # fmt: skip


def _bundle(store: Store, file: File) -> Bundle:
    """What a signature is kept in, as far as it can be read: the checks on the page tell of the rest."""
    if file.media_type == SIMPLE_SIGNING:
        return Bundle(file.blob.digest, SIMPLE)
    try:
        envelope = json.loads(store.read(file.blob.digest))["dsseEnvelope"]
        predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        alone = "resources" in predicate and "artifact" not in predicate
    except (HybError, ValueError, KeyError, TypeError, RecursionError):
        alone = False
    return Bundle(file.blob.digest, FILES if alone else DSSE)


def _said(store: Store, digest: str, key: str) -> bool:
    """True when another receipt of the artifact is of this step: two steps may give the same."""
    from hyb import receipt
    from hyb.formats import intoto

    for found in referrers(store).get(digest, ()):
        if found.kind == "receipt":
            try:
                if intoto.metadata(receipt.read(store, found), "invocationId") == key:
                    return True
            except HybError:
                continue
    return False
