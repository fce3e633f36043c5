"""A sealed image as a service: opened with the private key, served from a private folder, which goes when it ends.

The clear files are never put into the store, for what lies there is pushed, bundled and shown. They are taken out anew
at each start, onto the disk or, with `memory_only`, into memory alone. The key is read by skopeo, from its file; the
service does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hyb.artifact import Artifact
from hyb.encryption import memory, opened
from hyb.errors import Exit, HybError
from hyb.formats import sealed
from hyb.progress import Say, silent
from hyb.serving import manager
from hyb.serving.choice import Choice, choose
from hyb.serving.manager import Wanted
from hyb.serving.service import Service
from hyb.store import Store


def check(image: Artifact, wanted: Wanted, key: Path | None) -> None:
    """Raise HybError for a call that can't work: exit 4 for no key or another's, exit 3 for the rest."""
    manager.check(wanted)
    if key is None:
        raise sealed.locked(image)
    opened.check_key(image, key)
    if wanted.adapters:
        raise HybError("a sealed image is served as it is packed", hint="`hyb pack … --adapter` puts one into it")


def choice(image: Artifact, wanted: Wanted) -> Choice:
    """The engine that will serve a sealed image, and why: nothing is opened for that. Raises HybError."""
    parts = sealed.parts(image)
    adapters = [(str(a["name"]), str(a["digest"])) for a in image.meta.get("adapters") or ()]
    return choose(
        sealed.opened(image, adapters), parts.__getitem__, engine=wanted.engine, context=wanted.context,
        parallel=wanted.parallel,
    )  # fmt: skip


def start(
    store: Store, image: Artifact, wanted: Wanted, key: Path, *, memory_only: bool, environ: Mapping[str, str],
    detach: bool = False, say: Say = silent,
) -> Service:  # fmt: skip
    """Serve a sealed image, see `manager.start`.

    Raises HybError as that, `check`, `opened.take_out` and `memory.place` do.
    """
    check(image, wanted, key)
    manager.trusted(store, image, wanted, environ, say)
    if running := manager.running(image, wanted, environ):
        say(f"`{wanted.name}` is being served already at {running.url}")
        return running
    if gone := memory.sweep(environ):
        say(f"removed what {gone} service{'s' if gone > 1 else ''} that had been killed left in the clear")
    with memory.place(wanted.name, image.size, environ, memory_only=memory_only) as place:
        say(f"decrypting {image.size / 1e6:,.0f} MB into {'memory' if memory_only else f'`{place}`'}")
        inner, shown = opened.take_out(store, image, key, place)
        found = manager.start(
            inner, shown, replace(wanted, unsealed=str(place)), environ=environ, detach=detach, say=say
        )
        if found.unsealed != str(place):  # another hyb was quicker
            memory.remove(place)
    return found


def misused(image: Artifact | None, key: str, memory_only: bool) -> HybError | None:
    """The error for options that are for sealed images alone."""
    if image and sealed.is_sealed(image):
        return None
    if key or memory_only:
        option = "--decryption-key" if key else "--memory-only"
        why = "its model lies in the store in the clear" if image else "nothing is opened before it is here"
        return HybError(f"`{option}` is for a sealed image, and this is none: {why}", code=Exit.USAGE)
    return None
