"""Signatures in the store: each an artifact of its own whose `subject` is what it signs (an OCI referrer).

Its one layer is the bundle, under the media type that cosign looks for. What is signed:

    model, adapter     the files, in the model-signing format, and the manifest
    receipt            the receipt's own in-toto statement, byte for byte
    any other          a statement about the manifest's digest

A bundle that somebody else made over a model's files (`model_signing sign key`) counts, too: then the files are
covered, and what hyb noted beside them is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyb import digest as dg
from hyb.artifact import EMPTY, Artifact, Blob, File, blobs_of, document, short
from hyb.errors import Exit, HybError
from hyb.formats import strict_json
from hyb.formats.oci import SIGSTORE_BUNDLE
from hyb.hub import select
from hyb.progress import Progress, Say
from hyb.signing import dsse, model
from hyb.signing.keys import PrivateKey, PublicKey
from hyb.store import Store

KIND = "signature"
FILE = "signature.sigstore.json"
PREDICATE = "urn:hyb:signature:v1"
STATEMENTS = (model.STATEMENT, "https://in-toto.io/Statement/v0.1")
"""cosign still writes v0.1; subject and predicate stand at the same places in both."""
OF_FILES = ("model", "adapter")


@dataclass(frozen=True)
class Found:
    """The signatures of an artifact: `good` ids of keys that signed it; `bad` why the others do not count."""

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()


def sign(store: Store, artifact: Artifact, name: str, key: PrivateKey, say: Say) -> Artifact:
    """Sign an artifact, every byte read again first; the signature, or the one that this key made before.

    Raises HybError: exit 3 for a signature (it is one already), exit 4 for damaged content.
    """
    if artifact.kind == KIND:
        raise HybError(f"`{short(artifact.digest)}` is a signature", hint="sign what it signs")
    for signature in of(store, artifact):
        if _good(store, artifact, signature, [key.public]):
            return signature
    blobs = blobs_of(artifact)
    total, done = sum(b.size for b in blobs), 0
    for blob in blobs:
        store.check(blob, thorough=True)
        done += blob.size
        say(Progress("check", done, total, "B"))
    return add(store, artifact, dsse.sign(payload(store, artifact, name), dsse.IN_TOTO, key))


def add(store: Store, artifact: Artifact, bundle: bytes) -> Artifact:
    """Keep a bundle as a signature of `artifact`. Nothing is believed here: `find` looks at it."""
    blob, config = store.add_bytes(bundle), store.add_bytes(dg.canonical_json({}))
    subject = Blob(artifact.digest, len(store.read(artifact.digest)))
    files = [File(FILE, blob, SIGSTORE_BUNDLE)]
    manifest = document(KIND, files, (EMPTY, config), meta={"of": artifact.kind}, subject=subject)
    manifest["artifactType"] = SIGSTORE_BUNDLE
    return store.add_manifest(manifest)


def of(store: Store, artifact: Artifact) -> list[Artifact]:
    """The signatures of an artifact that the store has, good or not."""
    return [a for a in store.referrers(artifact.digest) if a.kind == KIND and a.manifest["layers"]]


def find(store: Store, artifact: Artifact, keys: Sequence[PublicKey]) -> Found:
    """Which of `keys` signed this very artifact. Never raises for a bad signature: one is enough, others are told."""
    good, bad = [], []
    for signature in of(store, artifact):
        if signature.files[0].media_type != SIGSTORE_BUNDLE:
            continue  # an image's signature in cosign's older form: for other programs
        try:
            good.append(check(store, artifact, _bundle(store, signature), keys))
        except HybError as error:
            bad.append(f"signature `{short(signature.digest)}`: {error.message}")
    return Found(tuple(dict.fromkeys(good)), tuple(bad))


def check(store: Store, artifact: Artifact, bundle: bytes, keys: Sequence[PublicKey]) -> str:
    """The id of the key that signed `artifact` in this bundle. Raises HybError (exit 4)."""
    found = dsse.verify(bundle, dsse.IN_TOTO, keys)
    if artifact.kind == "receipt":
        if found.payload != store.read(artifact.file("statement.json").blob.digest):
            raise _other("another statement")
        return found.key_id
    kind, subject = _about(found.payload)
    if kind == model.PREDICATE and artifact.kind in OF_FILES:
        _same_files(artifact, model.read(found.payload))
    elif kind != PREDICATE:
        raise _other(f"something else: {kind[:80]!r}")
    elif subject != artifact.digest:
        raise _other(f"another artifact, `{short(subject)}`")
    return found.key_id


def payload(store: Store, artifact: Artifact, name: str) -> bytes:
    """What is signed of an artifact: see the module's docstring. `name` is a label and proves nothing."""
    if artifact.kind == "receipt":
        return store.read(artifact.file("statement.json").blob.digest)
    if artifact.kind in OF_FILES:
        return model.statement(name, {f.path: f.blob.digest for f in artifact.files}, artifact.digest)
    return dg.canonical_json(
        {
            "_type": model.STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": artifact.digest.removeprefix("sha256:")}}],
            "predicateType": PREDICATE,
            "predicate": {"kind": artifact.kind},
        }
    )


def _same_files(artifact: Artifact, signed: model.Signed) -> None:
    """Raise HybError (exit 4) when other files were signed. A publisher's signature covers a whole repository, of
    which hyb takes what a causal LM needs: then all that it would take must be here."""
    here = {f.path: f.blob.digest for f in artifact.files}
    if signed.artifact:
        if signed.artifact != artifact.digest:
            raise _other(f"another artifact, `{short(signed.artifact)}`")
        wanted = dict(signed.files)
    elif here.keys() == signed.files.keys() or artifact.kind != "model":
        wanted = dict(signed.files)
    else:
        wanted = _chosen(signed)
    if wrong := model.compare(wanted, here):
        raise _other("; ".join(wrong[:5]))


def _chosen(signed: model.Signed) -> dict[str, str]:
    """Of the files of a repository those that a pull takes, under the names that a pull gives them."""
    try:
        chosen = select.select([p for p in signed.files if not p.startswith(".")], "the signature")
    except HybError as error:
        raise _other(f"no model that hyb would take: {error.message}") from error
    named = {("model.gguf" if p.endswith(".gguf") else p): signed.files[p] for p in chosen}
    return {p: d for p, d in named.items() if p != select.SIGNATURE}


def _good(store: Store, artifact: Artifact, signature: Artifact, keys: Sequence[PublicKey]) -> bool:
    try:
        check(store, artifact, _bundle(store, signature), keys)
    except HybError:
        return False
    return True


def _bundle(store: Store, signature: Artifact) -> bytes:
    blob = signature.files[0].blob
    if blob.size > dsse.MOST:
        raise HybError(f"no signature: it has {blob.size} bytes", code=Exit.CHECK)
    return store.read(blob.digest)


def _about(payload: bytes) -> tuple[str, str]:
    """(predicate type, digest of the one subject) of a statement. Raises HybError (exit 4)."""
    try:
        value = strict_json.load(payload, model.MOST)
        kind, subjects = value["predicateType"], value["subject"]
        if value["_type"] not in STATEMENTS or len(subjects) != 1 or not isinstance(kind, str):
            raise ValueError("another statement")
        return kind, f"sha256:{subjects[0]['digest']['sha256']}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _other("no in-toto statement about one thing") from error


def _other(what: str) -> HybError:
    return HybError(f"it signs {what}", code=Exit.CHECK)
