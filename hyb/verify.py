"""Store, lock and receipts, checked against each other. Every byte is read; nothing is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyb import damage, generations
from hyb import lock as lockfile
from hyb import recipe as recipes
from hyb.artifact import Artifact, Blob, blobs_of, short
from hyb.attest import trace
from hyb.boundary import recorded
from hyb.errors import HybError
from hyb.generations import Generation
from hyb.lock import Lock
from hyb.plan import key_of
from hyb.progress import Progress, Say
from hyb.stages.base import referenced
from hyb.store import Store


def check_store(store: Store, say: Say) -> list[str]:
    """What is wrong with the store, a line each: damaged or missing blobs, artifacts that can't be read."""
    wrong: list[str] = []
    artifacts, unreadable = _artifacts(store)
    wrong += unreadable
    blobs = {b.digest: b for a in artifacts for b in blobs_of(a)}
    total, done = sum(b.size for b in blobs.values()), 0
    for _, blob in sorted(blobs.items()):
        try:
            store.check(blob, thorough=True)
        except HybError as error:
            users = ", ".join(sorted({_called(store, a) for a in artifacts if blob in blobs_of(a)}))
            wrong.append(f"{error.message} (part of {users})")
        done += blob.size
        say(Progress("verify", done, total, "B"))
    wrong += [one.text for one in (*damage.records(store), *damage.views(store, {a.digest: a for a in artifacts}))]
    wrong += recorded.mistakes(store)
    here = {a.digest for a in artifacts}
    wrong += [
        f"`{_called(store, a)}` needs `{short(d)}`, which is not in the store"
        for a in artifacts
        for d in a.needs
        if d not in here
    ]
    wrong += [
        f"generation {g.number} of `{recipe}`: its `{stage}` `{short(d)}` is not in the store"
        for recipe in generations.names(store)
        for g in _generations(store, recipe)
        for stage, d in g.outputs.items()
        if d not in here
    ]
    return wrong


def check_lock(lock: Lock, store: Store, say: Say) -> list[str]:
    """What is wrong with all that a lock names, a line each: every byte of outputs and of what they need, receipts,
    exams that were not passed, stages that do not fit each other."""
    names, wrong = {locked.output: name for name, locked in lock.stages.items()}, []
    found: dict[str, Artifact] = {}
    todo = [(locked.output, name) for name, locked in lock.stages.items()]
    while todo:
        digest, name = todo.pop()
        if digest in found:
            continue
        try:
            found[digest] = store.artifact(digest)
        except (HybError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"{name}: {error.message if isinstance(error, HybError) else error}")
            continue
        todo += [(needed, names.get(needed, name)) for needed in found[digest].needs]
    wrong += _bytes(found, names, store, say)
    receipts = [a for a in _artifacts(store)[0] if a.kind == "receipt"]
    attested = {(_invocation(store, r), r.subject) for r in receipts if r.subject in names}
    for name, locked in lock.stages.items():
        if (locked.key, locked.output) not in attested:
            wrong.append(f"{name}: no receipt says that this step gave `{short(locked.output)}`")
        if locked.output in found and found[locked.output].meta.get("passed") is False:
            wrong.append(f"{name}: this exam was not passed")
        for other, digest in locked.inputs.items():
            if other in lock.stages and lock.stages[other].output != digest:
                wrong.append(f"{name}: it was made from another `{other}`")
    return wrong


def _bytes(artifacts: dict[str, Artifact], names: dict[str, str], store: Store, say: Say) -> list[str]:
    """Damaged and missing blobs of some artifacts, each blob read once."""
    owners = {b.digest: (b, a) for a in artifacts.values() for b in blobs_of(a)}
    total, done, wrong = sum(b.size for b, _ in owners.values()), 0, []
    for _, (blob, owner) in sorted(owners.items()):
        try:
            store.check(blob, thorough=True)
        except HybError as error:
            wrong.append(f"{names.get(owner.digest, owner.kind)}: {error.message}")
        done += blob.size
        say(Progress("verify", done, total, "B"))
    return wrong


def check_recipe(path: Path, store: Store, say: Say) -> list[str]:
    """What is wrong between a recipe's lock, its files, the store and its receipts, a line each. No network."""
    from hyb import pin

    recipe, lock = recipes.read(path), lockfile.read(path.with_name(lockfile.FILE))
    if not lock.stages:
        return []
    try:
        pins = pin.pin(recipe, lock.pins, offline=True, say=say)
    except HybError as error:
        return [f"lock of `{recipe.name}`: {error.message}"]
    wrong: list[str] = []
    for entry in recipe.entries:
        locked = lock.stages.get(entry.name)
        where = f"lock of `{recipe.name}`: stage `{entry.name}`"
        if locked is None:
            wrong.append(f"{where} is not locked yet")
            continue
        inputs = {n: lock.stages[n].output for n in referenced(entry.spec) if n in lock.stages}
        if len(inputs) == len(referenced(entry.spec)) and key_of(entry.spec, pins, inputs) != locked.key:
            wrong.append(f"{where} was made from something else: recipe, data or lock has changed since")
        if not store.blob_path(locked.output).exists():
            wrong.append(f"{where}: its output `{short(locked.output)}` is not in the store")
        elif not _attested(store, locked.key, locked.output):
            wrong.append(f"{where}: no receipt says that this step gave `{short(locked.output)}`")
    if not wrong:
        lineage = trace.trace(store, [s.output for s in lock.stages.values()], rows=False)
        wrong += [f"lineage of `{recipe.name}`: {problem}" for problem in lineage.problems]
    return wrong


def _generations(store: Store, recipe: str) -> Sequence[Generation]:
    """A recipe's generations; none of a ledger that can't be read, which is told as damage."""
    try:
        return generations.read(store, recipe).generations
    except HybError:
        return ()


def _artifacts(store: Store) -> tuple[list[Artifact], list[str]]:
    found, wrong = [], []
    for digest in store.digests():
        try:
            found.append(store.artifact(digest))
        except HybError as error:
            wrong.append(error.message)
    return found, wrong


def _called(store: Store, artifact: Artifact) -> str:
    names = sorted(n for n, d in store.tags().items() if d == artifact.digest)
    return f"{artifact.kind} {names[0] if names else short(artifact.digest)}"


def _attested(store: Store, key: str, output: str) -> bool:
    """True when a receipt of the store says that the step `key` gave `output`."""
    return any(_invocation(store, r) == key for r in _receipts(store, output))


def _receipts(store: Store, output: str) -> Iterator[Artifact]:
    return (a for a in _artifacts(store)[0] if a.kind == "receipt" and a.subject == output)


def _invocation(store: Store, receipt: Artifact) -> str:
    blob: Blob = receipt.file("statement.json").blob
    try:
        statement = json.loads(store.read(blob.digest))
        return str(statement["predicate"]["runDetails"]["metadata"]["invocationId"])
    except (HybError, ValueError, KeyError, TypeError, RecursionError):
        return ""
