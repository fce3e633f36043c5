"""Sealed images: what the manifest of an image says when some of its layers are encrypted (ocicrypt, JWE). Pure.

An encrypted layer has the media type of its tar and `+encrypted`, and two annotations of ocicrypt's: the layer's key,
wrapped once for each recipient, and the cipher's public options. hyb adds one, `io.hyb.sealed`: the digest of the list
of recipients, so that a layer which is the same for the same recipients is taken and not encrypted again.

A sealed image carries no model manifest in its layers, and its model need not be in the store that opens it: so the
manifests of model and adapters are in the annotation `io.hyb.parts`. By them every file that comes out is checked.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyb import digest as dg
from hyb.artifact import META, NEEDS, Artifact, File, parse, short
from hyb.errors import Exit, HybError
from hyb.formats import oci

SUFFIX = "+encrypted"
KEYS = "org.opencontainers.image.enc.keys.jwe"
OPTIONS = "org.opencontainers.image.enc.pubopts"
FOR = "io.hyb.sealed"
PARTS = "io.hyb.parts"
WHAT = ("all", "adapter")


def is_sealed(artifact: Artifact) -> bool:
    """True for an image of which some layer is encrypted, by whomever."""
    return any(f.media_type.endswith(SUFFIX) for f in artifact.files)


def covers(artifact: Artifact) -> tuple[bool, bool]:
    """(the model is in encrypted layers alone, every adapter is), by the layers themselves and not by what is said."""
    made = [x for x in artifact.manifest.get("layers", []) if oci.KEY in (x.get("annotations") or {})]
    closed = [str(x["mediaType"]).endswith(SUFFIX) for x in made]
    first = len(closed) - len(artifact.meta.get("adapters") or ())
    return bool(closed) and all(closed), bool(closed) and all(closed[first:])


def recipients(artifact: Artifact) -> tuple[str, ...]:
    """Key ids (`sha256:` of the public key) that a sealed image names; () for one that hyb did not seal."""
    said = artifact.meta.get("sealed")
    return tuple(map(str, said.get("to") or ())) if isinstance(said, Mapping) else ()


def notes_of(plain: Mapping[str, Any], what: str, key_ids: Sequence[str], parts: Sequence[Artifact]) -> dict[str, str]:
    """The annotations of a sealed image, from the manifest that it would have had unsealed.

    It needs no other artifact, for it holds its model and adapters: whoever carries an image with all that it needs
    must not carry them in the clear.
    """
    notes = {k: v for k, v in plain["annotations"].items() if k != NEEDS}
    meta = {**json.loads(notes[META]), "sealed": facts(what, key_ids, dg.of_json(plain))}
    held = dg.canonical_json({a.digest: a.manifest for a in parts}).decode()
    return {**notes, META: dg.canonical_json(meta).decode(), PARTS: held}


def facts(what: str, key_ids: Sequence[str], plain: str) -> dict[str, Any]:
    """What a sealed image's meta says of it. `plain`: digest of the manifest that it would have had unsealed."""
    return {"what": what, "to": list(key_ids), "plain": plain}


def list_digest(key_ids: Sequence[str]) -> str:
    """The value of FOR."""
    return dg.of_json(sorted(key_ids))


def parts(artifact: Artifact) -> dict[str, Artifact]:
    """Digest → the model and adapters that a sealed image holds. Raises HybError (exit 4) when it does not say so."""
    try:
        found = json.loads((artifact.manifest.get("annotations") or {})[PARTS])
        read = {digest: parse(digest, manifest) for digest, manifest in found.items()}
        if any(dg.of_json(a.manifest) != digest for digest, a in read.items()):
            raise ValueError("a manifest has another digest than its name")
        if str(artifact.meta["model"]) not in read:
            raise ValueError("its model is not among them")
    except (HybError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HybError(
            f"image `{short(artifact.digest)}` is encrypted, and does not say what is in it: {error}",
            hint="images of `hyb pack --encrypt-to` do; `skopeo copy --decryption-key` opens another's",
            code=Exit.CHECK,
        ) from error
    return read


def wrapped(value: str) -> int:
    """For how many recipients the annotation KEYS wraps a layer's key; 0 when it can't be read."""
    try:
        document = json.loads(base64.b64decode(value, validate=True))
        return len(document["recipients"]) if "recipients" in document else int("encrypted_key" in document)
    except (binascii.Error, ValueError, TypeError, KeyError):
        return 0


def locked(artifact: Artifact) -> HybError:
    """The error for a sealed image that is to be used without a key."""
    names = ", ".join(f"`{k[:19]}…`" for k in recipients(artifact)) or "keys that it does not name"
    return HybError(
        f"image `{short(artifact.digest)}` is sealed to {names}, and no key was given",
        hint="`hyb serve IMAGE --decryption-key FILE` opens it; `hyb show IMAGE` has the whole key ids",
        code=Exit.CHECK,
    )


def opened(artifact: Artifact, adapters: Sequence[tuple[str, str]]) -> Artifact:
    """A sealed image as what can be served once its parts are out: the same digest, no seal. `adapters`: (name, digest)
    of what came out of it."""
    meta = {k: v for k, v in artifact.meta.items() if k != "sealed"}
    meta["adapters"] = [{"name": name, "digest": digest} for name, digest in adapters]
    notes = {k: v for k, v in artifact.manifest["annotations"].items() if k not in (META, PARTS)}
    clear = tuple(File(f.path, f.blob) for f in artifact.files)  # for its size alone
    return Artifact(
        artifact.digest, "image", clear, meta, (str(meta["model"]),), None, {**artifact.manifest, "annotations": notes}
    )
