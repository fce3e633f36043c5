"""Key pairs for sealed images, and a model whose bytes can be looked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store


@dataclass(frozen=True)
class Keys:
    """A public key and its private half, as files."""

    public: Path
    private: Path


def pair(folder: Path, name: str, *, kind: str = "ec") -> Keys:
    """A new key pair in PEM: `ec` (P-256) or `rsa` (2048 bits)."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    keys = Keys(folder / f"{name}.pub.pem", folder / f"{name}.pem")
    keys.public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    keys.private.touch(mode=0o600)
    keys.private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return keys


def a_model(store: Store, weights: bytes, **meta: Any) -> Artifact:
    """A GGUF by name, of any bytes."""
    texts = {"config.json": b'{"model_type": "llama"}', "LICENSE": b"Apache-2.0\n"}
    files = [modelpack.file(p, store.add_bytes(d)) for p, d in {"model.gguf": weights, **texts}.items()]
    config = modelpack.config(files, name="Tiny Bot", architecture="llama", format="gguf")
    return store.add_artifact("model", files, meta={"format": "gguf", "name": "Tiny Bot", **meta}, config=config)


def an_adapter(store: Store, weights: bytes, base: Artifact) -> Artifact:
    """A LoRA by name, of any bytes, with a file that no image takes."""
    given = {"adapter.gguf": weights, "README.md": b"how it was made\n"}
    files = [modelpack.file(p, store.add_bytes(d)) for p, d in given.items()]
    return store.add_artifact("adapter", files, meta={"format": "gguf", "base": base.digest}, needs=(base.digest,))


def sealed_image(store: Store, model: Artifact, to: list[Keys], adapters: dict[str, Artifact] | None = None,
                 **fields: Any) -> Artifact:  # fmt: skip
    """An image of the model, sealed to the public keys."""
    names = {"adapters": list(adapters)} if adapters else {}
    spec = pack.Spec.model_validate({"model": "m", "encrypt_to": [str(k.public) for k in to], **names, **fields})
    work = store.work("sha256:" + os.urandom(32).hex())
    return pack.run(spec, {"m": model, **(adapters or {})}, Context(store, work))
