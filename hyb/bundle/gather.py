"""What goes into a bundle: all that a recipe's lock names, and what that drags along.

Artifacts with what they need and what speaks of them (receipts, reports, signatures) come from the store; the recipe
itself, documents and public keys are plain files. Of the recipe's folder only what the recipe names goes in, and a few
files that people write beside it: a folder may hold secrets that nobody listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hyb
from hyb import digest as dg
from hyb import fs, upkeep
from hyb.artifact import Artifact, Blob, blobs_of, short
from hyb.bundle.images import Image
from hyb.errors import Exit, HybError
from hyb.formats import leaked_keys
from hyb.formats.bundle import Content, Item
from hyb.lock import FILE as LOCK
from hyb.lock import Lock
from hyb.pin import written
from hyb.recipe import Recipe
from hyb.store import Store

BESIDE = ("Makefile", "README.md", "README", "LICENSE", "NOTICE")
"""Files of a recipe's folder that go along when they are there."""
_PRIVATE = ("dataset", "report")
"""Kinds whose files quote data, see hyb.formats.boundary."""


@dataclass(frozen=True)
class Gathered:
    """What goes in: items in the order in which they lie in the parts, and all that the document says but for the
    parts."""

    items: tuple[Item, ...]
    contents: tuple[Content, ...]
    files: Mapping[str, str]
    steps: Mapping[str, tuple[str, str]]
    assumes: Mapping[str, int] = field(default_factory=dict)
    base: str = ""
    left_out: tuple[str, ...] = ()

    def since(self, have: Mapping[str, int], base: str) -> Gathered:
        """Without what the other side has."""
        kept = tuple(i for i in self.items if i.digest not in have)
        gone = {i.digest: i.size for i in self.items if i.digest in have}
        return Gathered(kept, self.contents, self.files, self.steps, gone, base, self.left_out)


@dataclass(frozen=True)
class Order:
    """What was asked for. `keys`: place in the bundle → file; `made`: place → bytes that lie in no file of the user's.
    `with_data`: data sets, too, though the boundary says never (a sealed bundle alone). `dry`: nothing is written."""

    recipe: Recipe
    lock: Lock
    images: Sequence[Image] = ()
    wheels: Artifact | None = None
    keys: Mapping[str, Path] = field(default_factory=dict)
    made: Mapping[str, bytes] = field(default_factory=dict)
    with_data: bool = False
    dry: bool = False


def gather(order: Order, store: Store, left_out: Sequence[str] = ()) -> Gathered:
    """All that goes in. Raises HybError: exit 3 when the recipe was not run to its end, exit 4 for a damaged store."""
    recipe, lock = order.recipe, order.lock
    _whole(recipe, lock, store)
    artifacts = {a.digest: a for a in store.artifacts()}
    found = upkeep.dragged(artifacts, [s.output for s in lock.stages.values()])
    no_data = bool(recipe.boundary and recipe.boundary.forbids("data") and not order.with_data)
    out = {d for d in found if no_data and artifacts[d].kind in _PRIVATE}
    out |= {d for d in found if (subject := artifacts[d].subject) and subject in out}
    left = [*left_out, *(f"{artifacts[d].kind} {short(d)}: the boundary says `data: never`" for d in sorted(out)
                         if artifacts[d].kind in _PRIVATE)]  # fmt: skip
    found -= out
    names = {s.output: f"{recipe.name}/{n}" for n, s in lock.stages.items()}
    contents = [Content(d, artifacts[d].kind, (names[d],) if d in names else ()) for d in sorted(found)]
    contents += [Content(i.artifact.digest, "image", (i.name,)) for i in order.images
                 if i.artifact.digest not in found]  # fmt: skip
    files, more = _files(order, store, no_data=no_data)
    if order.wheels:
        contents.append(Content(order.wheels.digest, "wheels", (f"wheels/{recipe.name}",)))
        files |= {f"wheels/{f.path}": f.blob for f in order.wheels.files}
    steps = {s.key: (s.stage, s.output) for s in lock.stages.values() if s.output in found}
    manifests = [store.artifact(c.digest) for c in contents]
    return Gathered(
        tuple(_items(files, manifests, store)),
        tuple(contents),
        {path: blob.digest for path, blob in sorted(files.items())},
        steps,
        left_out=tuple(left + more),
    )


def _whole(recipe: Recipe, lock: Lock, store: Store) -> None:
    """Raise HybError unless each stage is locked and its output is in the store."""
    wrong = [f"stage `{e.name}` was not run" for e in recipe.entries if e.name not in lock.stages]
    wrong += [f"`{n}` `{short(s.output)}` is not whole in the store" for n, s in lock.stages.items()
              if not store.has(s.output)]  # fmt: skip
    if wrong:
        raise HybError(f"there is no whole run of `{recipe.name}` to bundle", details=wrong,
                       hint="`hyb run` makes what is missing")  # fmt: skip


def _items(files: Mapping[str, Blob], artifacts: Sequence[Artifact], store: Store) -> Iterator[Item]:
    """Each digest once: wheels first (they bring hyb), then recipe, documents, keys, then blobs, small ones first."""
    whole = [a for a in artifacts if a.kind != "wheels"]  # what the layout's index lists lies under blobs/
    blobs = {b.digest: b for a in whole for b in [*blobs_of(a), _manifest(a, store)]}
    seen, plain = set(blobs), set[str]()
    order = ("wheels/", "recipe/", "keys/", "docs/")
    for path, blob in sorted(files.items(), key=lambda f: ([f[0].startswith(o) for o in order].index(True), f[0])):
        if blob.digest not in seen:
            seen.add(blob.digest)
            plain.add(blob.digest)
            yield Item(path, blob.digest, blob.size)
    for wheels in (a for a in artifacts if a.kind == "wheels"):
        blobs |= {b.digest: b for b in [blobs_of(wheels)[0], _manifest(wheels, store)]}
    for digest, blob in sorted(blobs.items(), key=lambda b: (b[1].size >= 1 << 20, b[0])):
        if digest not in plain:
            yield Item(f"blobs/sha256/{digest.removeprefix('sha256:')}", digest, blob.size)


def _manifest(artifact: Artifact, store: Store) -> Blob:
    return Blob(artifact.digest, store.blob_path(artifact.digest).stat().st_size)


def _files(order: Order, store: Store, *, no_data: bool) -> tuple[dict[str, Blob], list[str]]:
    """Plain files, put into the store: path in the bundle → blob; and what is left out, a line each."""
    left: list[str] = []
    paths = dict(_recipe_files(order.recipe, left, no_data=no_data))
    paths |= order.keys
    files: dict[str, Blob] = {}
    wrong: list[str] = []
    for place, path in paths.items():
        with fs.explained(f"can't read `{path}`"):
            wrong += [f"`{path}`: {what}" for what in _secrets(path)]
            files[place] = Blob(*dg.of_file(path)) if order.dry else store.add_file(path)
    if wrong:
        raise HybError(
            "private keys would go into the bundle",
            details=sorted(set(wrong)),
            hint="take them out of these files; credentials are made on the inside",
            code=Exit.CHECK,
        )
    for place, data in order.made.items():
        files[place] = Blob(dg.of_bytes(data), len(data)) if order.dry else store.add_bytes(data)
    return files, left


def _recipe_files(recipe: Recipe, left: list[str], *, no_data: bool) -> Iterator[tuple[str, Path]]:
    """The recipe, its lock, what it names within its folder, and what people write beside it."""
    folder = recipe.folder
    names = ["hyb.yaml", LOCK, *BESIDE]
    for stage, fieldname, kind, source in written(recipe, all_of_it=True):
        text = source.removeprefix("file:")
        if kind != "path" and text == source:
            continue
        if kind == "path" and no_data:
            left.append(f"{stage}: `{fieldname}: {source}`: the boundary says `data: never`")
        elif Path(text).is_absolute() or ".." in Path(text).parts or text.startswith("~"):
            left.append(f"{stage}: `{fieldname}: {source}` lies outside the recipe's folder")
        else:
            names.append(text.rstrip("/"))
    for name in dict.fromkeys(names):
        path = folder / name
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            yield from ((f"recipe/{p.relative_to(folder).as_posix()}", p) for p in inside
                        if not any(x.startswith(".") for x in p.relative_to(path).parts))  # fmt: skip
        elif path.is_file():
            yield f"recipe/{Path(name).as_posix()}", path


def _secrets(path: Path) -> set[str]:
    """Kinds of keys that stand in a file."""
    found: set[str] = set()
    with path.open("rb") as stream:
        before = b""
        while chunk := stream.read(1 << 20):
            found |= {f.what for f in leaked_keys.find(before + chunk)}
            before = (before + chunk)[-leaked_keys.LONGEST :]
    return found


def documents() -> dict[str, bytes]:
    """hyb's own documents, place in the bundle → bytes: of the installed package, or of the checkout that runs."""
    here = Path(hyb.__file__).parent
    for folder in (here / "docs", here.parent / "docs"):
        if folder.is_dir():
            return {f"docs/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in sorted(folder.rglob("*.md"))}
    return {}
