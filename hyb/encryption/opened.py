"""A sealed image → a private store with its model and its adapters.

Nothing is unpacked by what a tar says: the image's own list of parts (model and adapters, each file with its digest)
says which files there are and where each lies in the image, and only these are taken. A file is hashed when it goes
into the private store, and the model has the digest there that it had where it was packed.

The room that is needed is that of the image, not twice: a file is cut piece by piece off the end of its clear layer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from hyb import fs
from hyb.artifact import Artifact, Blob, File, short
from hyb.encryption import keys, layers
from hyb.errors import Exit, HybError
from hyb.formats import oci, sealed, tar_read
from hyb.store import Store

CHUNK = 8 << 20


def check_key(image: Artifact, key: Path) -> None:
    """Raise HybError when a private key can't be what opens a sealed image: exit 3 for the file, exit 4 for the key."""
    mine, to = keys.private_id(key), sealed.recipients(image)
    if to and mine not in to:
        raise HybError(
            f"image `{short(image.digest)}` is not sealed to the key `{key}`",
            details=[f"the key is   {mine}", *(f"sealed to    {k}" for k in to)],
            hint="give the private key of one of those; or have it sealed anew: `hyb pack … --encrypt-to`",
            code=Exit.CHECK,
        )


def take_out(store: Store, image: Artifact, key: Path, place: Path) -> tuple[Store, Artifact]:
    """A store of its own in the folder `place`, and the image as it can be served from there.

    Raises HybError: as `check_key` and `layers.unseal` do; exit 4 for a file that is missing or is another.
    """
    check_key(image, key)
    parts = sealed.parts(image)
    own = _own_layers(store, image)
    for layer in own:
        store.check(layer.blob)
    inner = Store(place / "store")
    with fs.explained(f"can't write in `{place}`", also="a sealed image needs as much room there as it is big"):
        opened = _opened(store, own, key, place / "layers")
        wanted = _wanted(image, parts)
        found = dict(_files(opened, wanted, inner, place / "file"))
        shutil.rmtree(place / "layers", ignore_errors=True)
    model = parts[str(image.meta["model"])]
    if missing := [f.path for f in model.files if f"{oci.MODELS}/{f.path}" not in found]:
        raise HybError(f"image `{short(image.digest)}` lacks `{missing[0]}` of its model", code=Exit.CHECK)
    inner.add_manifest(model.manifest)
    adapters = [(name, _adapter(inner, name, parts[digest], found)) for name, digest in _adapters(image)]
    return inner, sealed.opened(image, adapters)


def _own_layers(store: Store, image: Artifact) -> list[oci.Layer]:
    """The layers that hyb made, with the digests that they are to have when they are clear."""
    config = json.loads(store.read(str(image.manifest["config"]["digest"])))
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(diff_ids) != len(image.manifest["layers"]):
        raise HybError(f"image `{short(image.digest)}` and its config name different layers", code=Exit.CHECK)
    pairs = zip(image.manifest["layers"], diff_ids, strict=True)
    return [
        oci.Layer(
            Blob(said["digest"], said["size"]), str(diff_id), "a layer", said["mediaType"], notes[oci.KEY],
            {k: v for k, v in notes.items() if k in (sealed.KEYS, sealed.OPTIONS)},
        )
        for said, diff_id in pairs
        if oci.KEY in (notes := said.get("annotations") or {})
    ]  # fmt: skip


def _opened(store: Store, own: list[oci.Layer], key: Path, work: Path) -> list[tuple[Path, bool]]:
    """(file of a clear layer, it may be used up) of each layer."""
    closed = [x for x in own if x.media_type.endswith(sealed.SUFFIX)]
    here = layers.unseal(store, closed, key, work) if closed else {}
    clear = [(store.blob_path(x.blob.digest), False) for x in own if x not in closed]
    return [*clear, *((path, True) for path in here.values() if path.exists())]


def _adapters(image: Artifact) -> list[tuple[str, str]]:
    return [(str(a["name"]), str(a["digest"])) for a in image.meta.get("adapters") or ()]


def _wanted(image: Artifact, parts: Mapping[str, Artifact]) -> dict[str, File]:
    """Path in the image → file, of the model and of each adapter."""
    wanted = {f"{oci.MODELS}/{f.path}": f for f in parts[str(image.meta["model"])].files}
    for name, digest in _adapters(image):
        if digest not in parts:
            raise HybError(f"image `{short(image.digest)}` does not say what its adapter `{name}` is", code=Exit.CHECK)
        wanted |= {f"{oci.ADAPTERS}/{name}/{f.path}": f for f in parts[digest].files}
    return wanted


def _files(
    opened: list[tuple[Path, bool]], wanted: Mapping[str, File], inner: Store, temporary: Path
) -> Iterator[tuple[str, File]]:
    """Put the wanted files into the private store, and tell which there were."""
    for layer, spent in opened:
        with layer.open("r+b" if spent else "rb") as stream:
            for name, at, size in reversed(_members(stream)):
                file = wanted.get(name)
                if file is None:
                    continue
                if size != file.blob.size:
                    raise HybError(f"`{name}` in a layer has {size} bytes, not {file.blob.size}", code=Exit.CHECK)
                _move(stream, at, size, temporary, spent)
                inner.add_file(temporary, how="move", expected=file.blob.digest)
                yield name, file
        if spent:
            layer.unlink()


def _members(stream: BinaryIO) -> list[tuple[str, int, int]]:
    """(name, where its content begins, size) of the plain files of a layer."""
    try:
        found = tar_read.members(stream)
        return [(m.name, stream.tell(), m.size) for m in found if m.kind in "0\0" and m.size is not None]
    except tar_read.TarError as error:
        raise HybError(f"a layer is no tar: {error}", code=Exit.CHECK) from error


def _move(stream: BinaryIO, at: int, size: int, target: Path, spent: bool) -> None:
    """A part of a file as one of its own, from behind; `spent`: what was taken is cut off, with all that follows it."""
    with target.open("wb") as out:
        out.truncate(size)
        while size:
            step = min(CHUNK, size)
            size -= step
            stream.seek(at + size)
            data = stream.read(step)
            out.seek(size)
            out.write(data)
            if spent:
                stream.truncate(at + size)


def _adapter(inner: Store, name: str, adapter: Artifact, found: Mapping[str, File]) -> str:
    """An adapter in the private store: what of it the image has; its digest there."""
    files = [f for f in adapter.files if f"{oci.ADAPTERS}/{name}/{f.path}" in found]
    if not files:
        raise HybError(f"the adapter `{name}` is not in the image that names it", code=Exit.CHECK)
    return inner.add_artifact("adapter", files, meta=adapter.meta, needs=adapter.needs).digest
