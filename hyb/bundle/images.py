"""Container images for a bundle: found on this machine or in a registry, copied into the store by skopeo.

In the store an image bears the name by which the inside asks for it (`quay.io/skupper/skupper-router:3.5.1`). What
Podman's storage gives is written without compression: the same image, the same bytes, whatever zlib is installed; its
manifest's digest is therefore not the registry's. An image from a registry or a layout keeps its digest, but for one
with a manifest of Docker's: that has no place in an OCI layout, so its manifest is written anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine
from hyb.artifact import INDEX, REF, Artifact
from hyb.errors import Exit, HybError
from hyb.linking.router_image import DEFAULT as ROUTER
from hyb.progress import Say
from hyb.recipe import Recipe
from hyb.store import Store

CONTROLLER = "quay.io/skupper/controller:2.2.1"
ADAPTOR = "quay.io/skupper/kube-adaptor:2.2.1"  # beside the router in each of its pods in a cluster
TUNE = "localhost/hyb-tune:latest"
CHAT = "localhost/hyb-chat:latest"
_LOCAL, _REMOTE = "containers-storage:", "docker://"
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_TRANSPORTS = (_LOCAL, _REMOTE, "oci:", "oci-archive:", "docker-archive:", "dir:")


@dataclass(frozen=True)
class Image:
    """An image of the store and the name that it has there."""

    name: str
    artifact: Artifact


def wanted(recipe: Recipe) -> list[str]:
    """The images that the stages of a recipe use, as far as hyb knows their names."""
    names: list[str] = []
    for entry in recipe.entries:
        if entry.stage == "serve":
            names += [str(getattr(entry.spec, "runtime_image", ""))]
        elif entry.stage == "tune":
            names.append(TUNE)
        elif entry.stage == "link":
            names += [ROUTER, CONTROLLER, ADAPTOR, CHAT]
    return list(dict.fromkeys(n for n in names if n))


def known(name: str, store: Store) -> Image | None:
    """An image that the store has under this name."""
    digest = store.tags().get(name)
    artifact = store.artifact(digest) if digest else None
    return Image(name, artifact) if artifact and artifact.kind == "image" else None


def present(names: list[str], store: Store, machine: str, say: Say) -> tuple[list[Image], list[str]]:
    """(those of `names` that are in the store or in Podman's storage, a line for each that is not, or for another
    machine)."""
    found, left = [], []
    for name in names:
        image = known(name, store)
        if not image and engine.which("skopeo") and _inspect(_LOCAL + name):
            image = bring(_LOCAL + name, store, machine, offline=True, say=say)
        if image and (other := _other_machine(image, store, machine)):
            left.append(f"image {name}: {other}; `--image docker://{name}` fetches the right one")
        elif image:
            found.append(image)
        else:
            left.append(f"image {name}: neither in the store nor in Podman; `--image docker://{name}` fetches it")
    return found, left


def asked(source: str, store: Store, machine: str, *, offline: bool, say: Say) -> Image:
    """As `bring`; raises HybError (exit 3) when the image is for another machine than `machine` (as `uname -m`)."""
    image = bring(source, store, machine, offline=offline, say=say)
    if other := _other_machine(image, store, machine):
        raise HybError(f"the image `{source}` {other}", hint="`--platform` says for whom the bundle is")
    return image


def bring(source: str, store: Store, machine: str, *, offline: bool, say: Say) -> Image:
    """Put one image into the store; `source` is a name or skopeo's `TRANSPORT:…`. Of a list of images the one for
    `machine`. Raises HybError: exit 6 when it would need the network and hyb is offline, exit 5 when skopeo fails."""
    if image := known(source, store):
        return image
    place = source
    if not source.startswith(_TRANSPORTS):
        place = _LOCAL + source if _inspect(_LOCAL + source) else _REMOTE + source
    if place.startswith(_REMOTE) and offline:
        raise HybError(
            f"the image `{source}` is not on this machine, and hyb is offline",
            code=Exit.OFFLINE,
            hint=f"without `--offline` it is fetched; or `podman load` it first, or leave `--image {source}` out",
        )
    name = _name(place)
    work = store.work(dg.of_json(["bundle-image", place])) / "layout"
    shutil.rmtree(work, ignore_errors=True)
    say(f"copying the image {place}")
    _copy(place, work, machine)
    artifact = _take(store, work, name)
    shutil.rmtree(work.parent, ignore_errors=True)
    return Image(name, artifact)


def _copy(place: str, work: Path, machine: str) -> None:
    """One image into an OCI layout. Without its digest where that is of a manifest that a layout can't hold: skopeo
    refuses it, or writes what it can't read again."""
    argv = ["skopeo", f"--override-arch={_GOARCH.get(machine, machine)}", "--override-os=linux", "copy", "--quiet",
            "--insecure-policy"]  # fmt: skip
    target = [place, f"oci:{work}:image"]
    if place.startswith(_LOCAL):
        engine.run([*argv, "--dest-oci-accept-uncompressed-layers", *target])
        return
    kept = engine.run([*argv, "--preserve-digests", *target], check=False)
    if kept.returncode or "docker" in _entry(work)["mediaType"] or "docker" in _manifest(work).get("mediaType", ""):
        engine.run([*argv, *target])


def _other_machine(image: Image, store: Store, machine: str) -> str:
    """What to say of an image that is for another machine; "" for one that fits or does not tell."""
    found = ""
    with contextlib.suppress(ValueError, AttributeError):  # something that is no container image
        found = str(json.loads(store.read(image.artifact.manifest["config"]["digest"])).get("architecture") or "")
    wanted = _GOARCH.get(machine, machine)
    return f"is for {found}, not for {wanted}" if found not in ("", "unknown", wanted) else ""


def _entry(work: Path) -> dict[str, Any]:
    listed: list[dict[str, Any]] = json.loads((work / "index.json").read_bytes())["manifests"]
    return next(e for e in listed if e.get("annotations", {}).get(REF) == "image")


def _manifest(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "blobs" / _entry(work)["digest"].replace(":", "/")).read_bytes())
    return found


def _take(store: Store, work: Path, name: str) -> Artifact:
    """A layout's one image into the store: its blobs are moved, its manifest listed and named."""
    entry = _entry(work)
    blobs = work / "blobs" / "sha256"
    data = (blobs / entry["digest"].removeprefix("sha256:")).read_bytes()
    manifest = json.loads(data)
    if manifest.get("mediaType", "") == INDEX or "layers" not in manifest:
        raise HybError(f"`{name}` is a list of images", hint="name one of them by its digest")
    for part in [manifest["config"], *manifest["layers"]]:
        path = blobs / part["digest"].removeprefix("sha256:")
        if path.exists():  # a layer that occurs twice is one blob
            store.add_file(path, how="move", expected=part["digest"])
    with store.index() as entries:
        blob = store.add_bytes(data)
        if not any(e["digest"] == blob.digest for e in entries):
            entries.append(
                {"mediaType": manifest.get("mediaType", entry["mediaType"]), "digest": blob.digest, "size": blob.size}
            )
    store.tag(name, blob.digest)
    return store.artifact(blob.digest)


def _inspect(place: str) -> bool:
    return engine.run(["skopeo", "inspect", "--raw", place], check=False, timeout=60).returncode == 0


def _name(place: str) -> str:
    """What the image is called: without the transport, and for a file or folder without its path."""
    transport = next(t for t in _TRANSPORTS if place.startswith(t))
    name = place.removeprefix(transport)
    if transport in (_LOCAL, _REMOTE):
        last = name.rpartition("/")[2]
        return name if ":" in last or "@" in last else f"{name}:latest"
    path, _, tag = name.partition(":")
    return tag or f"localhost/{path.rstrip('/').rpartition('/')[2].partition('.')[0].lower()}:latest"
