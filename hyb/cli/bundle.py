"""bundle create, bundle load: a recipe and all that it needs, onto a medium and off it."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import size
from hyb.cli.session import Session, command
from hyb.cli.signing import PassphraseOption, TrustOption, private_key, trusting

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.bundle.gather import Order
    from hyb.bundle.images import Image
    from hyb.bundle.write import How
    from hyb.formats.bundle import Bundle
    from hyb.recipe import Recipe

KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="PUB", help="A public key that must have signed it. Repeatable.", show_default=False),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="The private age key of a sealed bundle.", show_default=False),
]
FoldersArgument = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="The bundle's folder, or media that each hold some parts.")
]


@command
def bundle_create(
    s: Session,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe or its folder; none: the current folder.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write to: new, empty, or of this bundle.")
    ] = Path("bundle"),
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="The most bytes of a part: 4G, 650M, 3900MiB.")
    ] = "4G",
    since: Annotated[
        Path | None,
        typer.Option(
            "--since",
            metavar="OLD",
            show_default=False,
            help="Only what is new since OLD: a bundle's folder, its hyb-bundle.json, or an inventory.",
        ),
    ] = None,
    encrypt_to: Annotated[
        list[str] | None,
        typer.Option(
            "--encrypt-to", metavar="KEY", help="Seal it to an age or SSH public key, or a file of them. Repeatable."
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option("--sign-key", metavar="FILE", help="Sign it with this private key.", show_default=False),
    ] = None,
    passphrase_file: PassphraseOption = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="IMAGE", help="A container image, too: a name, or skopeo's TRANSPORT:… Repeatable."
        ),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="No image but those of --image and of the lock.")
    ] = False,
    python: Annotated[
        str, typer.Option("--python", metavar="3.X", help="Wheels for this Python; default: this one.")
    ] = "",
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform",
            metavar="PLATFORM",
            help="The machine there: linux/amd64, linux/arm64, or with its libc: manylinux_2_28_x86_64. Repeatable;"
            " images are for the first.",
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            "--extra",
            metavar="NAME",
            help="Wheels for this extra of hyb; default: what the stages need, bundle, mirror, sbom. Repeatable.",
        ),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(
            "--wheels", metavar="DIR", help="Choose wheels from this folder, ask no index.", show_default=False
        ),
    ] = None,
    no_wheels: Annotated[bool, typer.Option("--no-wheels", help="No wheels.")] = False,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--public-key", metavar="PUB", help="A public key to carry along. Repeatable.", show_default=False
        ),
    ] = None,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Data that the boundary forbids, too; needs --encrypt-to.")
    ] = False,
) -> None:
    """Write a bundle of a recipe: all that its lock names, images, wheels, documents, in plain tars with checksums.

    Killed, it goes on where it was. README.txt in it says how to check and unpack it without hyb.

    Example: hyb bundle create recipes/quickstart -o /media/usb --no-wheels
    """
    from hyb.bundle import gather, write
    from hyb.bundle.wheels import collect
    from hyb.formats import bundle as form

    most, found = form.parse_size(max_size), _recipe(recipe)
    _check_options(found, encrypt_to or [], with_data=with_data, wheels=wheels, no_wheels=no_wheels)
    how = _how(most, encrypt_to or [], sign_key, passphrase_file)
    target = None if no_wheels else _target(found, python, platform or [], extra or [], sealed=bool(encrypt_to))
    if target:
        how = write.How(how.most, how.recipients, how.key, target.python, target.platforms)
    images, left, later = _images(s, found, image or [], platform or [], no_images=no_images)
    chosen = None
    if target and s.dry_run:
        later.append(f"wheels for Python {target.python}, {', '.join(target.platforms)}")
    elif target:
        chosen = collect(s.store, target, wheels, offline=s.offline, say=s.talk)
    order = _order(s, found, images, chosen, public_key or [], how, with_data=with_data)
    gathered = gather.gather(order, s.store, left)
    if since:
        gathered = gathered.since(*_have(since))
    for line in gathered.left_out:
        s.talk(f"left out: {line}")
    if s.dry_run:
        _foresee(s, write.foresee(found.name, gathered, how)[0], later)
        return
    made = write.write(s.store, found.name, gathered, out, how, s.talk)
    value = {
        "bundle": made.bundle.identity,
        "folder": str(out),
        "parts": [p.name for p in made.bundle.parts],
        "size": made.bundle.size,
        "written": made.written,
        "kept": made.kept,
        "assumes": len(made.bundle.assumes),
        "left_out": list(made.bundle.left_out),
        "signed": how.key is not None,
    }
    count = len(made.bundle.parts)
    text = f"{out}: {count} part{'' if count == 1 else 's'}, {size(made.bundle.size)}"
    text += f", {size(made.kept)} of it kept from before" if made.kept else ""
    text += f"; {len(made.bundle.assumes)} blobs are assumed to be inside" if made.bundle.assumes else ""
    s.show(
        value,
        f"{text}\ncheck it with `hyb bundle verify {quote(str(out))}`; there, `hyb bundle load DIR` or README.txt",
    )


def _foresee(s: Session, bundle: Bundle, later: list[str]) -> None:
    """Show what would be written. With something that comes `later` the parts will be others: no names then."""
    total = sum(p.length for p in bundle.parts)
    parts = [{"name": None if later else p.name, "length": p.length} for p in bundle.parts]
    value: dict[str, Any] = {
        "dry_run": True, "parts": parts, "left_out": list(bundle.left_out), "not_counted": later
    }  # fmt: skip
    lines = [f"would write {len(parts)} part{'' if len(parts) == 1 else 's'}, {size(total)}"]
    lines += [f"  {p.name}" for p in bundle.parts if not later]
    lines += [f"not counted, as a dry run fetches nothing: {line}" for line in later]
    s.show(value, "\n".join(lines))


@command
def bundle_load(
    s: Session,
    folders: FoldersArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where recipe, docs, keys and wheels go; default: the bundle's name."
        ),
    ] = None,
    key: KeyOption = None,
    identity: IdentityOption = None,
    allow_unsigned: Annotated[
        bool,
        typer.Option("--allow-unsigned", help="Take it though the trust policy wants a signature; this is recorded."),
    ] = False,
    to_podman: Annotated[bool, typer.Option("--to-podman", help="Give its images to Podman, too.")] = False,
    trust: TrustOption = None,
) -> None:
    """Take a bundle into the store. Every byte is checked; names come last, when all is there.

    With parts missing or damaged it says which; run it again when they are here: what is good is not read again.

    Example: hyb bundle load /media/usb --key lab.pub
    """
    from hyb.bundle import load, read
    from hyb.signing.keys import load_public

    trusting(trust)
    opened = read.open_bundle(folders)
    by = read.vouched(opened, [load_public(k) for k in key or ()], os.environ, s.talk, allow_unsigned=allow_unsigned)
    bundle, place = opened.bundle, out or Path(opened.bundle.name)
    if s.dry_run:
        lacks = load.missing(opened, s.store)
        value: dict[str, Any] = {
            "dry_run": True,
            "bundle": bundle.identity,
            "out": str(place),
            "missing": [d for d, _ in lacks],
        }
        s.show(
            value,
            f"would load {len(bundle.parts)} parts, {size(bundle.size)}, and write {len(bundle.files)} files to {place}"
            + "".join(f"\nnot here: {d}" for d, _ in lacks),
        )
        return
    done = load.load(opened, s.store, place, s.talk, identity=identity, signed_by=by, allow_unsigned=allow_unsigned)
    given = _give_to_podman(s, bundle.contents) if to_podman else []
    value = {
        "bundle": bundle.identity,
        "signed_by": by or None,
        "new": done.new,
        "parts_read": done.read,
        "names": list(done.names),
        "out": str(place),
        "files": list(done.files),
        "podman": given,
    }
    lines = [f"loaded {bundle.name}: {size(done.new)} new, {len(done.names)} names"]
    lines += [f"gave Podman {n}" for n in given]
    brought = [n for c in bundle.contents if c.kind == "image" for n in c.names if not n.startswith(f"{bundle.name}/")]
    if brought and not to_podman:
        lines.append(f"brought {', '.join(brought)}; `--to-podman` gives these to Podman, too")
    lines += [f"wrote {len(done.files)} files to {place}"] if done.files else []
    if "recipe/hyb.yaml" in bundle.files:
        lines.append(f"next: hyb run {quote(f'{place}/recipe')} --offline --locked")
    s.show(value, "\n".join(lines))


def _recipe(path: Path | None) -> Recipe:
    from hyb import recipe as recipes

    return recipes.read(recipes.find(path))


def _check_options(
    recipe: Recipe, encrypt_to: list[str], *, with_data: bool, wheels: Path | None, no_wheels: bool
) -> None:
    from hyb.errors import Exit, HybError

    if with_data and not encrypt_to:
        raise HybError(
            "`--with-data` takes data that must not leave in the open",
            code=Exit.USAGE,
            hint=f"seal the bundle of `{recipe.name}` with `--encrypt-to KEY`",
        )
    if wheels and no_wheels:
        raise HybError("`--wheels` and `--no-wheels` exclude each other", code=Exit.USAGE)
    if wheels and not wheels.is_dir():
        raise HybError(f"`{wheels}` is no folder of wheels", hint="`pip download -d DIR …` makes one")


def _how(most: int, encrypt_to: list[str], sign_key: Path | None, passphrase_file: Path | None) -> How:
    from hyb import engine, sealing
    from hyb.bundle.write import How

    if encrypt_to:
        engine.require(["pyrage"], "bundle", "bundle create --encrypt-to")
        sealing.recipients(encrypt_to)
    key = None
    if sign_key:
        key = private_key(sign_key, passphrase_file)
    return How(most, tuple(encrypt_to), key)


def _target(recipe: Recipe, python: str, platform: list[str], extra: list[str], *, sealed: bool) -> Any:
    from hyb.bundle import wheels

    return wheels.target(python, platform, extra, [e.stage for e in recipe.entries], sealed=sealed)


def _images(
    s: Session, recipe: Recipe, given: list[str], platform: list[str], *, no_images: bool
) -> tuple[list[Image], list[str], list[str]]:
    """(images of the store, a line for each that is not to be had, a line for each that a dry run does not fetch)."""
    from hyb.bundle import images
    from hyb.bundle.wheels import target

    machine = target("", platform, (), ()).places()[0].machine
    names = [] if no_images else [n for n in images.wanted(recipe) if n not in given]
    if s.dry_run:
        found = {n: images.known(n, s.store) for n in [*given, *names]}
        return [i for i in found.values() if i], [], [f"image {n}" for n, i in found.items() if not i]
    asked = [images.asked(i, s.store, machine, offline=s.offline, say=s.talk) for i in given]
    others, left = images.present([n for n in names if n not in {a.name for a in asked}], s.store, machine, s.talk)
    return asked + others, left, []


def _order(
    s: Session,
    recipe: Recipe,
    images: list[Image],
    wheels: Artifact | None,
    public: list[Path],
    how: How,
    *,
    with_data: bool,
) -> Order:
    from hyb import lock as lockfile
    from hyb.bundle import gather
    from hyb.signing.keys import load_public

    for path in public:
        load_public(path)  # a private one is refused
    lock = lockfile.read(recipe.folder / lockfile.FILE)
    made = gather.documents() | ({"keys/signed-by.pub": how.key.public.pem} if how.key else {})
    return gather.Order(recipe, lock, images, wheels, {f"keys/{p.name}": p for p in public}, made, with_data, s.dry_run)


def since(path: Path) -> tuple[dict[str, int], str]:
    """What the other side has by a bundle or an inventory, and that bundle's id."""
    from hyb import fs
    from hyb.formats import bundle as form

    place = path / form.FILE if path.is_dir() else path
    with fs.explained(f"can't read `{place}`"):
        return form.parse_since(fs.read_bounded(place, 4 * form.MOST), str(place))


_have = since  # where an option has the name


def _give_to_podman(s: Session, contents: Any) -> list[str]:
    from hyb import engine_podman

    given = []
    for content in contents:
        if content.kind == "image":
            artifact = s.store.artifact(content.digest)
            given += [engine_podman.deliver(s.store, artifact, n) for n in content.names]
    return given
