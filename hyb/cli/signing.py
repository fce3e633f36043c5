"""sign: signatures of artifacts, folders and images, and the keys that make them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.signing.keys import PrivateKey, PublicKey

PASSPHRASE = "HYB_SIGN_PASSPHRASE"
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        show_default=False,
        help=f"Its first line opens the key; or the variable {PASSPHRASE}.",
    ),
]
TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", metavar="FILE", help="The trust policy, see docs/signing.md.", show_default=False),
]
SignerOption = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="PUB", help="A public key whose signature counts. Repeatable.", show_default=False),
]


def trusting(trust: Path | None) -> None:
    """`--trust FILE` holds for this call and what it starts."""
    if trust is not None:
        os.environ["HYB_TRUST"] = str(trust.expanduser().absolute())


@command
def sign(
    s: Session,
    name: Annotated[
        str, typer.Argument(metavar="[NAME|DIR]", help="An artifact of the store, or a model's folder with --out.")
    ] = "",
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The private key, mode 0600.", show_default=False)
    ] = None,
    passphrase_file: PassphraseOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the signature there, too.", show_default=False),
    ] = None,
    place: Annotated[
        str,
        typer.Option("--for", metavar="oci://…", help="Of an image: where it is to be pushed, for Podman's policy."),
    ] = "",
    attach: Annotated[
        Path | None,
        typer.Option("--attach", metavar="FILE", help="Keep this signature, made elsewhere.", show_default=False),
    ] = None,
    receipts: Annotated[bool, typer.Option("--receipts", help="Sign the receipts that speak of it, too.")] = False,
    new_key: Annotated[
        Path | None, typer.Option("--new-key", metavar="DIR", help="Make a key pair there.", show_default=False)
    ] = None,
    kind: Annotated[str, typer.Option("--kind", metavar="p256|ed25519", help="Of the new key.")] = "p256",
) -> None:
    """Sign a model, an adapter, an image or any artifact with a key pair, without a network.

    A model gets a signature in the OpenSSF model-signing format, anything else an in-toto statement; both are kept in
    the store beside what they sign, and go with it in pushes and bundles. A folder's signature is a file (--out).

    Example: hyb sign --new-key keys && hyb sign quickstart/bot --key keys/hyb.key
    """
    from hyb.errors import Exit, HybError

    given = [bool(key), bool(attach), bool(new_key)]
    if sum(given) != 1 or bool(name) == bool(new_key):
        raise HybError("say what is to be signed and with which key", code=Exit.USAGE,
                       hint="`hyb sign NAME --key FILE`, `… --attach FILE`, or `hyb sign --new-key DIR`")  # fmt: skip
    if new_key:
        _new(s, new_key.expanduser(), kind, passphrase_file)
        return
    if attach:
        _attach(s, name, attach)
        return
    assert key
    private = private_key(key.expanduser(), passphrase_file)
    if Path(name).expanduser().is_dir() and not _in_store(s, name):
        _folder(s, Path(name).expanduser(), private, out)
    else:
        _artifact(s, name, private, out, place, receipts)


def verify_signature(s: Session, what: str, keys: list[Path], signature: Path | None) -> None:
    """`hyb verify NAME --key PUB`, or of a folder with `--signature FILE`. Raises HybError (exit 4)."""
    from hyb.artifact import blobs_of
    from hyb.errors import Exit, HybError
    from hyb.signing import attached, folder, gate
    from hyb.signing.keys import known, load_public, short_id

    public: list[PublicKey] = [load_public(k.expanduser()) for k in keys] or _trusted_keys()
    if signature:
        key_id, files = folder.verify(Path(what).expanduser(), signature.expanduser(), public, s.talk)
        s.show({"folder": what, "files": files, "keys": [key_id]},
               f"{what}: {files} files, signed by {short_id(key_id)}")  # fmt: skip
        return
    artifact = s.store.artifact(s.store.resolve(what))
    for blob in blobs_of(artifact):
        s.store.check(blob, thorough=True)
    if not keys:
        gate.check(s.store, artifact, "accept", os.environ, say=s.talk, names=[what])
    found = attached.find(s.store, artifact, public)
    if not found.good:
        raise HybError(
            f"`{what}` has no good signature by {known(public)}", details=found.bad or ("it has no signature",),
            hint=f"`hyb sign {what} --key FILE` makes one, with the private half of the key", code=Exit.CHECK,
        )  # fmt: skip
    value = {"digest": artifact.digest, "kind": artifact.kind, "keys": list(found.good), "others": list(found.bad)}
    s.show(value, f"{what}: {artifact.kind} {artifact.digest}\nsigned by {', '.join(map(short_id, found.good))}")


def _trusted_keys() -> list[PublicKey]:
    from hyb.errors import Exit, HybError
    from hyb.signing import policy

    found = policy.in_force(os.environ)
    if found is None:
        raise HybError("there is neither a key nor a trust policy to verify by", code=Exit.USAGE,
                       hint="give `--key PUB`, or write a policy (docs/signing.md)")  # fmt: skip
    return found.usable(found.keys)


def _new(s: Session, folder: Path, kind: str, passphrase_file: Path | None) -> None:
    from hyb.signing.keys import generate

    if s.dry_run:
        s.show({"would_make": str(folder / "hyb.key"), "dry_run": True}, f"would make a key pair in {folder}")
        return
    made = generate(folder, kind=kind, passphrase=_passphrase(passphrase_file))
    s.show(
        {"private": str(made.private), "public": str(made.public), "key": made.key_id},
        f"private  {made.private}\npublic   {made.public}\nkey id   {made.key_id}",
    )


def private_key(path: Path, passphrase_file: Path | None) -> PrivateKey:
    """The user's private key, opened by the passphrase in a file or the environment. Raises HybError."""
    from hyb.signing.keys import load_private

    return load_private(path, _passphrase(passphrase_file))


def _passphrase(path: Path | None) -> bytes | None:
    from hyb.credentials import read_passphrase

    if path:
        return read_passphrase(path.expanduser())
    return os.environ[PASSPHRASE].encode() if os.environ.get(PASSPHRASE) else None


def stored(s: Session, name: str) -> bool:
    """True when this is no path, and the store has something of that name."""
    return not Path(name).expanduser().exists() and _in_store(s, name)


def _in_store(s: Session, name: str) -> bool:
    from hyb.errors import HybError

    try:
        s.store.resolve(name)
    except HybError:
        return False
    return True


def _folder(s: Session, path: Path, key: PrivateKey, out: Path | None) -> None:
    from hyb import fs
    from hyb.errors import Exit, HybError
    from hyb.signing import folder

    if out is None:
        raise HybError(f"`{path}` is a folder: say where its signature is to go", code=Exit.USAGE,
                       hint=f"`hyb sign {path} --key FILE --out {path.name}.sig`")  # fmt: skip
    bundle = folder.sign(path, key, s.talk, out.expanduser())
    if not s.dry_run:
        with fs.explained(f"can't write `{out}`"):
            fs.write_atomic(out.expanduser(), bundle)
    s.show({"folder": str(path), "signature": str(out), "key": key.public.key_id, "dry_run": s.dry_run},
           f"{'would write' if s.dry_run else 'wrote'} {out}, signed by {key.public.key_id}")  # fmt: skip


def _artifact(s: Session, name: str, key: PrivateKey, out: Path | None, place: str, receipts: bool) -> None:
    from hyb import fs
    from hyb.errors import Exit, HybError
    from hyb.hub import names
    from hyb.signing import attached, cosign

    artifact = s.store.artifact(s.store.resolve(name))
    target = names.parse(place) if place.startswith("oci://") else None
    if place and (not isinstance(target, names.OCI) or target.digest or artifact.kind != "image"):
        raise HybError(f"`--for {place}` is `oci://REGISTRY/REPO[:TAG]`, for an image", code=Exit.USAGE)
    speaking = [a for a in s.store.referrers(artifact.digest) if receipts and a.kind in ("receipt", "report")]
    value: dict[str, Any] = {"digest": artifact.digest, "kind": artifact.kind, "key": key.public.key_id}
    if s.dry_run:
        s.show({**value, "dry_run": True}, f"would sign {artifact.kind} {artifact.digest} and {len(speaking)} more")
        return
    with s.store.in_use():
        made = attached.sign(s.store, artifact, name, key, s.talk)
        more = [attached.sign(s.store, a, name, key, s.talk).digest for a in speaking]
        if isinstance(target, names.OCI):
            more.append(cosign.sign(s.store, artifact, target, key).digest)
    if out:
        with fs.explained(f"can't write `{out}`"):
            fs.write_atomic(out.expanduser(), s.store.read(made.files[0].blob.digest))
    text = f"signed {artifact.kind} {artifact.digest}\nwith key {key.public.key_id}\nsignature {made.digest}"
    s.show({**value, "signature": made.digest, "more": more, "out": str(out or "")},
           text + (f"\nand {len(more)} more" if more else ""))  # fmt: skip


def _attach(s: Session, name: str, path: Path) -> None:
    from hyb import fs
    from hyb.errors import HybError
    from hyb.signing import attached, dsse

    artifact = s.store.artifact(s.store.resolve(name))
    with fs.explained(f"can't read the signature `{path}`"):
        bundle = fs.read_bounded(path.expanduser(), dsse.MOST)
    dsse.parse(bundle, dsse.IN_TOTO)
    if artifact.kind == attached.KIND:
        raise HybError(f"`{name}` is a signature", hint="attach it to what it signs")
    if s.dry_run:
        s.show({"digest": artifact.digest, "dry_run": True}, f"would attach {path} to {artifact.digest}")
        return
    made = attached.add(s.store, artifact, bundle)
    s.show({"digest": artifact.digest, "signature": made.digest},
           f"attached to {artifact.kind} {artifact.digest}\n`hyb verify {name} --key PUB` judges it")  # fmt: skip
