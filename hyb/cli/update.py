"""`hyb pack --update`: from an image to the next one, with a new or another adapter."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hyb.cli.output import size
from hyb.cli.session import Session

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.cli.chain import Chain


def update(
    s: Session, image: str, given: list[str], require: list[str], name: str | None, to_podman: bool,
    sealing: Mapping[str, Any],
) -> None:  # fmt: skip
    """Pack what `image` has with the adapters `given` (NAME=ARTIFACT) besides or instead of its own; show the cost."""
    from hyb.cli.chain import Chain, slug
    from hyb.errors import HybError

    started, before = time.monotonic(), s.store.artifact(s.store.resolve(image))
    if before.kind != "image" or "model" not in before.meta:
        raise HybError(f"`{image}` is no image that hyb packed", hint="`hyb ls` shows the kind of each")
    if before.meta.get("sealed") and not sealing["encrypt_to"]:
        raise HybError(
            f"`{image}` is sealed, and the next image would not be",
            hint="give `--encrypt-to` for each that may read it; what is sealed to the same ones is not sealed again",
        )
    if was := before.meta.get("sealed"):
        sealing = {**sealing, "encrypt": sealing["encrypt"] or was["what"]}
    chain, tag = Chain(s), name or slug(image)
    model = _give(chain, slug(str(before.meta.get("model_name") or "model")), str(before.meta["model"]), "model")
    adapters = {str(a["name"]): str(a["digest"]) for a in before.meta.get("adapters", [])}
    adapters |= {n: s.store.resolve(text) for n, text in map(named, given)}
    names = [_give(chain, n, digest, s.store.artifact(digest).kind, exact=True) for n, digest in adapters.items()]
    below = _give(chain, f"{tag}-before", before.digest, "image") if before.meta.get("runnable") else None
    chain.add(
        tag, stage="pack", model=model, adapters=names or None, require=[chain.stored(r) for r in require] or None,
        name=before.meta.get("name"), architecture=before.meta.get("architecture"), base_of=below, **sealing,
    )  # fmt: skip
    after = chain.run(show=s.dry_run)
    if after is None:
        return
    written, layers = rewritten(s, before, after)
    place = _delivered(s, before, after, tag, to_podman)
    took = round(time.monotonic() - started, 3)
    value = {
        "name": tag, "digest": after.digest, "adapters": after.meta["adapters"], "rewritten": written,
        "layers_rewritten": layers, "layers": len(after.files), "podman": place, "seconds": took,
    }  # fmt: skip
    text = f"{tag}  {after.digest}\nrewrote {size(written)}: {layers} of {len(after.files)} layers, {took:.2f} s"
    s.show(value, text + (f"\nin Podman as {place}: {layers} layers written" if place else ""))


def named(text: str) -> tuple[str, str]:
    """`support=bot-lora` → ("support", "bot-lora"); a name alone stands for both. Raises HybError (exit 2)."""
    import re

    from hyb.errors import Exit, HybError

    name, equals, artifact = text.partition("=")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name) or (equals and not artifact):
        raise HybError(
            f"`{text}` is no adapter", hint="write NAME=ARTIFACT, the name in a-z, 0-9 and `-`", code=Exit.USAGE
        )
    return name, artifact or name


def rewritten(s: Session, before: Artifact, after: Artifact) -> tuple[int, int]:
    """(bytes, layers) that `after` has and `before` has not: what a host that has the one must get for the other."""
    from hyb.artifact import blobs_of

    had = {b.digest for b in blobs_of(before)}
    new = {b.digest: b.size for b in blobs_of(after) if b.digest not in had}
    manifest = 0 if before.digest == after.digest else len(s.store.read(after.digest))
    return sum(new.values()) + manifest, sum(f.blob.digest in new for f in after.files)


def _give(chain: Chain, name: str, digest: str, kind: str, *, exact: bool = False) -> str:
    """An artifact as an input under a name that is free; `exact`: under this very one."""
    from hyb.errors import HybError

    if exact and name in chain.given:
        raise HybError(f"the adapter's name `{name}` is taken by the model", hint="give it another name")
    while name in chain.given:
        name = f"{name}-x"
    chain.given[name], chain.kinds[name] = digest, kind
    return name


def _delivered(s: Session, before: Artifact, after: Artifact, tag: str, wanted: bool) -> str:
    """Give Podman the new image where it had the old one under this name, or where that is wanted; its name, or ""."""
    from hyb import engine, engine_podman
    from hyb.errors import HybError

    socket = engine_podman.socket_url(os.environ)
    if not wanted and not engine.which("podman") and not socket:
        return ""
    full = engine_podman.full_name(tag)
    try:
        # Without a socket the program is asked for the image alone: `podman info` takes longer than all the rest.
        info = engine_podman.available() if socket else engine_podman.PodmanInfo("", "", False, True, "")
        had = engine_podman.image_id(full, info)
        if wanted or f"sha256:{had}" == before.manifest["config"]["digest"]:
            engine_podman.load_image(s.store, after, full)
            return full
    except HybError as error:
        if wanted:
            raise
        s.talk(f"not looked for in Podman: {error.message}")
    return ""
