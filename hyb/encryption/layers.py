"""Layers, encrypted for recipients and decrypted again, by skopeo.

skopeo copies images, so it is shown one: a small layout of symbolic links, whose only layers are those to be changed.
What it writes is looked at afterwards, for a flag that an older version does not know must never mean a clear layer:
each has to have ocicrypt's media type, a key wrapped for every recipient, and another digest than before.

Both ways skopeo writes into the folder it is told and nowhere else; nothing lies in /tmp or /var/tmp in between.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine, fs
from hyb.artifact import Blob
from hyb.encryption.keys import Recipient
from hyb.errors import Exit, HybError
from hyb.formats import oci, sealed
from hyb.layout import blob_path
from hyb.progress import Say, silent
from hyb.store import Store

NAME = "image"
COPY = ("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers")


def seal(
    stack: Sequence[oci.Layer], chosen: Sequence[oci.Layer], to: Sequence[Recipient], store: Store, work: Path,
    say: Say = silent,
) -> list[oci.Layer]:  # fmt: skip
    """The layers of an image, those of `chosen` encrypted for all of `to`. What an image of the store holds already for
    these very recipients is taken from there, so that an adapter that changes encrypts its own layer alone.

    Raises HybError as `encrypt` does.
    """
    asked = sealed.list_digest([r.key_id for r in to])
    known = {x.key: x for x in sealed_layers(store) if x.notes.get(sealed.FOR) == asked and store.has_blob(x.blob)}
    done = {x.diff_id: known[x.key] for x in chosen if x.key in known}
    if new := [x for x in chosen if x.diff_id not in done]:
        whom = "1 recipient" if len(to) == 1 else f"{len(to)} recipients"
        say(f"encrypting {sum(x.blob.size for x in new) / 1e6:,.1f} MB for {whom}")
        done |= {x.diff_id: x for x in encrypt(store, work, new, to)}
    return [done[x.diff_id] if x in chosen else x for x in stack]


def sealed_layers(store: Store) -> Iterator[oci.Layer]:
    """The encrypted layers of all images in the store that hyb sealed."""
    for image in (a for a in store.artifacts() if a.kind == "image" and sealed.is_sealed(a)):
        diff_ids = json.loads(store.read(image.manifest["config"]["digest"]))["rootfs"]["diff_ids"]
        for said, diff_id in zip(image.manifest["layers"], diff_ids, strict=True):
            notes = said.get("annotations") or {}
            if sealed.FOR in notes and oci.KEY in notes:
                kept = {k: v for k, v in notes.items() if k != oci.KEY}
                blob = Blob(said["digest"], said["size"])
                yield oci.Layer(blob, diff_id, "", said["mediaType"], notes[oci.KEY], kept)


def encrypt(store: Store, work: Path, layers: Sequence[oci.Layer], to: Sequence[Recipient]) -> list[oci.Layer]:
    """The same layers, encrypted for all of `to`, in the store. `work`: a folder of the step.

    Raises HybError: exit 3 without skopeo, exit 5 when it fails or leaves something unencrypted.
    """
    clear, out = _fresh(work / "clear"), _fresh(work / "sealed")
    show(clear, store, layers)
    keys = []
    for number, one in enumerate(to):
        path = work / f"recipient-{number}.pem"
        path.write_bytes(one.pem)
        keys.append(f"--encryption-key=jwe:{path}")
    engine.run(engine.tied([*COPY, *keys, f"oci:{clear}:{NAME}", f"oci:{out}:{NAME}"]))
    done = [_taken(store, out, said, layer, to) for said, layer in zip(manifest(out)["layers"], layers, strict=True)]
    shutil.rmtree(clear)
    shutil.rmtree(out)
    return done


def unseal(store: Store, layers: Sequence[oci.Layer], key: Path, work: Path) -> dict[str, Path]:
    """Digest of the clear layer → its file below `work`. `layers`: encrypted, each with the digest that it is to have.

    Raises HybError: exit 3 without skopeo, exit 4 for a key that opens none of them, or a layer that was changed.
    """
    shown, out = _fresh(work / "sealed"), _fresh(work / "clear")
    show(shown, store, layers)
    command = [*COPY, f"--decryption-key={key}", f"oci:{shown}:{NAME}", f"oci:{out}:{NAME}"]
    done = engine.run(engine.tied(command), check=False)
    if done.returncode:
        raise _refused(done.stderr.decode(errors="replace"), key)
    found = {str(x["digest"]): blob_path(out, str(x["digest"])) for x in manifest(out)["layers"]}
    if missing := [x.diff_id for x in layers if x.diff_id not in found]:
        raise HybError(
            f"what was in an encrypted layer is not `{missing[0]}`, as the image's config says",
            hint="it was changed after it was packed, or by somebody else: take it from where it was made",
            code=Exit.CHECK,
        )
    shutil.rmtree(shown)
    return found


def show(folder: Path, store: Store, layers: Sequence[oci.Layer]) -> None:
    """Make `folder` an OCI layout with one image of these layers, links to the store's blobs."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest in {x.blob.digest for x in layers}:
        blob_path(folder, digest).symlink_to(store.blob_path(digest).resolve())
    config = dg.canonical_json(oci.image_config(layers, architecture="amd64", labels={}))
    document = dg.canonical_json(oci.image_manifest(_put(folder, config), layers, {}))
    (folder / "oci-layout").write_bytes(oci.LAYOUT)
    (folder / "index.json").write_bytes(dg.canonical_json(oci.single_index(_put(folder, document), NAME)))


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the one image in a layout that skopeo wrote."""
    entry = json.loads((folder / "index.json").read_bytes())["manifests"][0]
    return dict(json.loads(blob_path(folder, str(entry["digest"])).read_bytes()))


def _put(folder: Path, data: bytes) -> Blob:
    blob = Blob(dg.of_bytes(data), len(data))
    blob_path(folder, blob.digest).write_bytes(data)
    return blob


def _taken(store: Store, out: Path, said: dict[str, Any], layer: oci.Layer, to: Sequence[Recipient]) -> oci.Layer:
    """An encrypted layer into the store. Raises HybError (exit 5) when it is not encrypted for all."""
    notes, digest = dict(said.get("annotations") or {}), str(said["digest"])
    whole = str(said["mediaType"]) == layer.media_type + sealed.SUFFIX and digest != layer.blob.digest
    if not whole or sealed.wrapped(notes.get(sealed.KEYS, "")) != len(to):
        raise HybError(
            f"skopeo did not encrypt {layer.holds} for {len(to)} recipients", hint="try a newer skopeo", code=Exit.BELOW
        )
    blob = store.add_file(blob_path(out, digest), how="move", expected=digest)
    kept = {k: v for k, v in notes.items() if k in (sealed.KEYS, sealed.OPTIONS)}
    kept[sealed.FOR] = sealed.list_digest([r.key_id for r in to])
    return oci.Layer(blob, layer.diff_id, layer.holds, str(said["mediaType"]), layer.key, kept)


def _fresh(folder: Path) -> Path:
    """A folder without what a killed run left in it."""
    with fs.explained(f"can't make `{folder}`"):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, mode=0o700)
    return folder


def _refused(said: str, key: Path) -> HybError:
    """What skopeo's refusal means."""
    last = said.strip().splitlines()[-1:] or ["skopeo said nothing"]
    if "no suitable key unwrapper" in said or "missing private key" in said:
        return HybError(f"the key `{key}` opens none of the image's layers", details=last, code=Exit.CHECK)
    if "hmac" in said or "properly decrypt" in said or "Digest did not match" in said:
        return HybError(
            "an encrypted layer was changed since it was sealed", details=last, code=Exit.CHECK,
            hint="take the image from where it was made",
        )  # fmt: skip
    if "no space left" in said:
        return HybError("there is no room for the decrypted layers", details=last, hint="free some, or more memory")
    return HybError("skopeo could not decrypt the image", details=last, code=Exit.BELOW)
