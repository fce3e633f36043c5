"""Signatures of images as cosign writes them, which skopeo, Podman and CRI-O check by `policy.json` (`sigstoreSigned`).

What is signed is a small JSON document ("simple signing") with the image's digest and the reference that it is to have
in a registry; a registry keeps it under the tag `sha256-<hex>.sig`. Since the reference is signed, it must be known
when the signature is made: `hyb sign IMAGE --key K --for oci://REGISTRY/REPO:TAG`. The signature lies in the store as a
referrer of the image until a push to that repository takes it along.

Sources: containers-policy.json(5), https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md.
"""

from __future__ import annotations

import base64
import json

from hyb import digest as dg
from hyb.artifact import Artifact, Blob, File, document
from hyb.errors import HybError
from hyb.formats.oci import CONFIG, SIMPLE_SIGNING
from hyb.hub.names import OCI
from hyb.signing.attached import KIND
from hyb.signing.keys import PrivateKey
from hyb.store import Store

SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"


def sign(store: Store, image: Artifact, target: OCI, key: PrivateKey) -> Artifact:
    """Sign an image for the place that it is to have. Raises HybError for a key that cosign's form does not take."""
    if key.public.kind != "p256":
        raise HybError(f"an image's signature needs a key on P-256, this one is {key.public.kind}",
                       hint="`hyb sign --new-key DIR` makes one")  # fmt: skip
    data = payload(reference(target), image.digest)
    blob = store.add_bytes(data)
    config = store.add_bytes(dg.canonical_json({"architecture": "", "os": "", "config": {},
                                                "rootfs": {"type": "layers", "diff_ids": [blob.digest]}}))  # fmt: skip
    manifest = document(
        KIND, [File("cosign.json", blob, SIMPLE_SIGNING)], (CONFIG, config),
        meta={"of": image.kind, "for": str(target), "key": f"sha256:{key.public.hint}"},
        subject=Blob(image.digest, len(store.read(image.digest))),
    )  # fmt: skip
    manifest["layers"][0]["annotations"][SIGNATURE] = base64.b64encode(key.sign(data)).decode()
    return store.add_manifest(manifest)


def payload(reference: str, digest: str) -> bytes:
    """The document that is signed."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": TYPE,
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def reference(target: OCI) -> str:
    """`REGISTRY/REPO:TAG`, as a policy compares it."""
    return f"{target.where}:{target.ref or 'latest'}"
