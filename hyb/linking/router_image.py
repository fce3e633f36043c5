"""The router's image: by digest, from what this host has.

Skupper 2.2.1 reads `SKUPPER_ROUTER_IMAGE` outside Kubernetes and knows no pull policy there: `skupper system start` and
`reload` pull through Podman's API, which asks the registry even for a digest that is here (Podman 4.3 and 5). So with
no network the site goes the way of a bundle, whose `podman run` takes the image that is here (`hyb.linking.bundle`).
"""

from __future__ import annotations

import json
from typing import Any

from hyb import engine, engine_podman
from hyb.engine_podman import PODMAN
from hyb.errors import Exit, HybError
from hyb.store import Store

DEFAULT = "quay.io/skupper/skupper-router:3.5.1"
"""What Skupper 2.2.1 runs (`internal/images/images.go`)."""
VARIABLE = "SKUPPER_ROUTER_IMAGE"


def pinned(reference: str, store: Store, *, offline: bool) -> str:
    """`reference` as REPOSITORY@DIGEST, with the image in Podman's storage.

    An image that Podman lacks comes from hyb's store (by that name there), else, unless `offline`, from its registry.
    Raises HybError: exit 6 when it is nowhere here and there is no network, exit 5 when Podman can't pull it.
    """
    found = _inspected(reference)
    if not found and (stored := _stored(reference, store)):
        reference, found = stored, _inspected(stored)
    if not found:
        if offline:
            raise HybError(
                f"offline, and the router's image `{reference}` is not here",
                hint=f"where there is a network: `podman pull {reference}` and `podman save`; here: `podman load`",
                code=Exit.OFFLINE,
            )
        engine.run([*PODMAN, "pull", "--quiet", reference], timeout=600)
        found = _inspected(reference)
    if not found:
        raise HybError(f"Podman has no image `{reference}` after pulling it", code=Exit.BELOW)
    return _by_digest(reference, found)


def _inspected(reference: str) -> dict[str, Any]:
    done = engine.run([*PODMAN, "image", "inspect", reference], check=False, timeout=60)
    if done.returncode:
        return {}
    found = json.loads(done.stdout)
    return dict(found[0]) if found else {}


def _stored(reference: str, store: Store) -> str:
    """The full name under which an image of hyb's store was given to Podman; "" when the store has none such."""
    digest = store.tags().get(reference)
    if digest is None or store.artifact(digest).kind != "image":
        return ""
    return engine_podman.deliver(store, store.artifact(digest), reference)


def _by_digest(reference: str, found: dict[str, Any]) -> str:
    repository = reference.partition("@")[0]
    head, _, last = repository.rpartition("/")
    repository = f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
    known = [str(x) for x in found.get("RepoDigests") or ()]
    if "@" in reference and reference in known:
        return reference
    named = [x for x in known if x.partition("@")[0] in (repository, f"localhost/{repository}")]
    return next(iter(named or known), reference)
