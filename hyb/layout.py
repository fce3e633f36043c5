"""OCI image layouts beside the store: reading one that somebody made, and showing one image of the store as one.

skopeo and Podman find an image of a layout by its name only (asking by digest came much later than the versions of
today's long-lived distributions), and an artifact of the store need not have one. So `shown` lays a folder of a few
bytes, with its own index and a link to the store's blobs, in front of the store.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs
from hyb.artifact import INDEX, Artifact, Blob, blobs_of
from hyb.errors import Exit, HybError
from hyb.formats import oci, tar
from hyb.store import Store


def read(folder: Path, architecture: str) -> oci.Base:
    """The one image for linux/`architecture` in the OCI image layout `folder`; its layers are not read.

    Raises HybError: exit 3 when there is not exactly one such image, exit 4 for damaged documents.
    """
    with fs.explained(f"can't read the base image `{folder}`"):
        try:
            manifest_digest = _find(folder, architecture)
            manifest = _document(folder, manifest_digest)
            config = _document(folder, manifest["config"]["digest"])
            layers = oci.base_layers(manifest, config)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HybError(f"`{folder}` holds no OCI image layout that can be read: {error}") from error
    if config.get("architecture") != architecture:
        raise HybError(
            f"the base image `{folder}` is for {config.get('architecture')}, the recipe says {architecture}",
            hint="set `architecture:` of the pack stage, or take another base",
        )
    return oci.Base(config, layers, manifest_digest)


def blob_path(folder: Path, digest: str) -> Path:
    """Where a blob of a layout lies. Raises ValueError for what is no sha256 digest."""
    if not dg.is_digest(digest):
        raise ValueError(f"`{digest}` is no sha256 digest")
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


@contextlib.contextmanager
def shown(store: Store, artifact: Artifact, name: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is an OCI layout with one image, called `name`; nothing is copied. Gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hyb-", dir=parent) as text:
        folder = Path(text) / "image"  # not the random name itself: Podman makes an image name of a layout's path
        folder.mkdir()
        (folder / "oci-layout").write_bytes(oci.LAYOUT)
        (folder / "index.json").write_bytes(_index(store, artifact, name))
        (folder / "blobs").symlink_to(store.blobs.parent.resolve(), target_is_directory=True)
        yield folder


def archive(store: Store, artifact: Artifact, name: str) -> list[tar.Entry]:
    """The entries of an OCI archive (a tar of a layout) with one image called `name`; streamed with `tar.chunks`."""
    import io

    index = _index(store, artifact, name)
    small = {"oci-layout": oci.LAYOUT, "index.json": index}
    entries = [tar.Entry(path, len(data), lambda d=data: io.BytesIO(d)) for path, data in small.items()]  # type: ignore[misc]
    blobs = {b.digest: b for b in [_manifest_blob(store, artifact), *blobs_of(artifact)]}
    for blob in blobs.values():
        path = store.blob_path(blob.digest)
        entries.append(tar.Entry(f"blobs/sha256/{path.name}", blob.size, lambda p=path: p.open("rb")))  # type: ignore[misc]
    return tar.with_folders(entries)


def _index(store: Store, artifact: Artifact, name: str) -> bytes:
    return dg.canonical_json(oci.single_index(_manifest_blob(store, artifact), name))


def _manifest_blob(store: Store, artifact: Artifact) -> Blob:
    return Blob(artifact.digest, len(store.read(artifact.digest)))


def _find(folder: Path, architecture: str) -> str:
    """The digest of the image's manifest; an index may point to another index, one a platform."""
    entry = oci.choose(json.loads((folder / "index.json").read_bytes()), architecture)
    if entry and entry.get("mediaType") == INDEX:
        entry = oci.choose(_document(folder, entry["digest"]), architecture)
    if entry is None:
        raise HybError(
            f"`{folder}` does not hold exactly one image for linux/{architecture}",
            hint=f"`skopeo copy --override-arch {architecture} docker://IMAGE oci:FOLDER` makes such a folder",
        )
    return str(entry["digest"])


def _document(folder: Path, digest: str) -> Mapping[str, Any]:
    path = blob_path(folder, digest)
    data = path.read_bytes()
    if dg.of_bytes(data) != digest:
        raise HybError(f"`{path}` is damaged", hint="copy the base image into the folder again", code=Exit.CHECK)
    return dict(json.loads(data))
