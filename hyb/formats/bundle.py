"""A bundle on paper: what is in it, in which part and at which byte. Pure.

    hyb-bundle.json            this document: contents, blobs with their places, parts with their sha256
    hyb-bundle.sigstore.json   a DSSE signature over it, where it is signed
    SHA256SUMS(.sig)           the same sums for `sha256sum -c`, and a plain signature for `openssl`
    README.txt                 how to check and unpack without hyb
    NAME-ID.0001.tar …         the parts: plain tars of at most `max-size`, sealed ones with `.age` behind

Unpacked into one folder the parts are an OCI image layout, with wheels, recipe, documents and keys as plain files
beside it. A reader of hyb's never parses a tar: the document says at which byte of which part each piece lies, and
which digest it has. So nothing that a tar's headers say (names, links, modes) is ever followed. Parts are found by the
names that stand here, never by looking at what lies in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hyb import digest as dg
from hyb.artifact import safe_path
from hyb.errors import Exit, HybError
from hyb.formats import strict_json, tar

VERSION = 1
FILE = "hyb-bundle.json"
SIGNATURE = "hyb-bundle.sigstore.json"
SUMS = "SHA256SUMS"
SUMS_SIGNATURE = "SHA256SUMS.sig"
README = "README.txt"
PAYLOAD = "application/vnd.hyb.bundle.v1+json"
INVENTORY_VERSION = 1
MOST = 16 << 20
"""Bytes of the document."""
SMALLEST = 64 << 10
"""Bytes: the least `max-size`."""
_PLAIN = ("wheels/", "recipe/", "docs/", "keys/")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_PART = re.compile(r"[a-z0-9-]{1,60}\.[0-9]{4,6}\.tar(\.age)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?")


@dataclass(frozen=True)
class Item:
    """Bytes that go into a bundle: where they lie when unpacked with tar, their digest and size."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True)
class Piece:
    """Bytes of one item in one part. `offset`: in the part's tar; `at`: in the item; `digest` of these bytes."""

    item: str
    part: int
    offset: int
    at: int
    size: int
    digest: str = ""


@dataclass(frozen=True)
class Part:
    """One file of the bundle. `size` and `sha256` are those of the file, `length` that of the tar within."""

    name: str
    length: int
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Content:
    """An artifact or image: the digest of its manifest, its kind, its names in the store."""

    digest: str
    kind: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """The document. `items`: digest → size of what the parts hold; `files`: plain path → digest; `assumes`: digests
    that the inside must have already (a delta); `steps`: key → (stage, output)."""

    name: str
    identity: str
    contents: tuple[Content, ...]
    items: Mapping[str, int]
    pieces: tuple[Piece, ...]
    parts: tuple[Part, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    assumes: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    base: str = ""
    sealed: bool = False
    python: str = ""
    platforms: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(p.size for p in self.parts)

    def sizes(self) -> dict[str, int]:
        """Digest → size of all that the inside has after loading."""
        return {**self.assumes, **self.items}


@dataclass(frozen=True)
class Planned:
    """A part before it is written: the tar's entries as (item, at, size, path in the tar), and where contents begin."""

    entries: tuple[tuple[Item, int, int, str], ...]
    offsets: tuple[int, ...]
    length: int


def parse_size(text: str) -> int:
    """`4G`, `3900MiB`, `650M` → bytes: G is 10⁹, Gi is 2³⁰. Raises HybError (exit 2)."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise HybError(f"`{text}` is no size", hint="such as `4G` (10⁹ bytes), `650M`, `3900MiB`", code=Exit.USAGE)
    base = 1024 if found[3] else 1000
    power = ["", "k", "m", "g", "t"].index(found[2].lower())
    size = int(float(found[1]) * base**power)
    if size < SMALLEST:
        raise HybError(f"parts of `{text}` are too small", hint=f"at least {SMALLEST >> 10}KiB", code=Exit.USAGE)
    return size


def plan(items: Sequence[Item], most: int) -> list[Planned]:
    """Lay items into parts of at most `most` bytes, in their order; one that does not fit is split over parts.

    An item of less than a part begins a new part rather than being split. The pieces of a split one have `.0001`, …
    behind their path.
    """
    parts: list[Planned] = []
    entries: list[tuple[Item, int, int, str]] = []
    offsets: list[int] = []
    at = 0

    def close() -> None:
        nonlocal entries, offsets, at
        if entries:
            parts.append(Planned(tuple(entries), tuple(offsets), at + len(tar.END)))
        entries, offsets, at = [], [], 0

    def put(item: Item, start: int, size: int, path: str) -> None:
        nonlocal at
        begin = at + len(_head(path, size, at))
        entries.append((item, start, size, path))
        offsets.append(begin)
        at = begin + size + -size % tar.BLOCK

    for item in items:
        if at + _cost(item.path, item.size, at) > most:
            if entries and _cost(item.path, item.size, 0) <= most:
                close()
            elif _cost(item.path, item.size, 0) > most:
                _split(item, most, lambda: at, put, close)
                continue
        put(item, 0, item.size, item.path)
    close()
    return parts


def _split(
    item: Item,
    most: int,
    where: Callable[[], int],
    put: Callable[[Item, int, int, str], None],
    close: Callable[[], None],
) -> None:
    """Lay one item over several parts, from where the current one ends."""
    start, number = 0, 0
    while start < item.size:
        number += 1
        path = f"{item.path}.{number:04d}"
        room = most - where() - (_cost(path, tar.ALIGN_FROM, where()) - tar.ALIGN_FROM) - tar.ALIGN
        room -= room % tar.BLOCK
        if room < min(SMALLEST // 2, item.size - start):
            close()
            number -= 1
            continue
        size = min(room, item.size - start)
        put(item, start, size, path)
        start += size


def _head(path: str, size: int, at: int) -> bytes:
    return tar.header(tar.Entry(path, size, _nothing), at)


def _cost(path: str, size: int, at: int) -> int:
    """Bytes of a part that holds an entry from byte `at` on, from there to the end."""
    return len(_head(path, size, at)) + size + -size % tar.BLOCK + len(tar.END)


def _nothing() -> Any:
    raise AssertionError("a plan reads nothing")


def part_name(name: str, identity: str, number: int, *, sealed: bool) -> str:
    """`quickstart-1a2b3c4d.0001.tar`."""
    return f"{name}-{identity[:8]}.{number:04d}.tar{'.age' if sealed else ''}"


def dump(bundle: Bundle) -> bytes:
    """The one byte form of the document. No time, no host: the same contents give the same bytes."""
    value = {
        "hyb-bundle": VERSION,
        "name": bundle.name,
        "id": bundle.identity,
        "base": bundle.base or None,
        "sealed": "age" if bundle.sealed else None,
        "python": bundle.python or None,
        "platforms": list(bundle.platforms),
        "contents": [{"digest": c.digest, "kind": c.kind, "names": list(c.names)} for c in bundle.contents],
        "files": dict(bundle.files),
        "steps": {k: {"stage": s, "output": o} for k, (s, o) in bundle.steps.items()},
        "items": dict(bundle.items),
        "assumes": dict(bundle.assumes),
        "parts": [asdict(p) for p in bundle.parts],
        "pieces": [asdict(p) for p in bundle.pieces],
        "left_out": list(bundle.left_out),
    }
    return strict_json_text(value)


def strict_json_text(value: Any) -> bytes:
    """JSON for people and programs: sorted keys, a line an entry."""
    import json

    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse(data: bytes, where: str) -> Bundle:
    """A document from its bytes. Everything in it may be hostile: names, places, sizes are checked here, once.

    Raises HybError: exit 3 for a newer version, exit 4 for what is no such document.
    """
    try:
        value = strict_json.load(data, MOST)
        if not isinstance(value, dict) or "hyb-bundle" not in value:
            raise ValueError("it has no `hyb-bundle`")
        version = value["hyb-bundle"]
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            raise HybError(
                f"`{where}` has format {version}; this hyb knows format {VERSION}",
                hint="load it with the hyb that is in its own wheels (README.txt says how); nothing was changed",
            )
        if version != VERSION or isinstance(version, bool):
            raise ValueError(f"its format is {version!r}")
        bundle = _parsed(value)
        check(bundle)
        _check_pieces(bundle)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HybError(
            f"`{where}` is no bundle's document, or a damaged one: {type(error).__name__}: {error}",
            hint="copy it from the medium again; parts that are good stay good", code=Exit.CHECK,
        ) from error  # fmt: skip
    return bundle


def _parsed(value: dict[str, Any]) -> Bundle:
    return Bundle(
        name=_text(value["name"]),
        identity=_text(value["id"]),
        contents=tuple(
            Content(_digest(c["digest"]), _text(c["kind"]), tuple(map(_text, c["names"]))) for c in value["contents"]
        ),
        items={_digest(d): _count(s) for d, s in value["items"].items()},
        pieces=tuple(_piece(p) for p in value["pieces"]),
        parts=tuple(
            Part(_text(p["name"]), _count(p["length"]), _count(p["size"]), _digest(p["sha256"])) for p in value["parts"]
        ),
        files={_text(p): _digest(d) for p, d in value["files"].items()},
        assumes={_digest(d): _count(s) for d, s in value["assumes"].items()},
        steps={_digest(k): (_text(s["stage"]), _digest(s["output"])) for k, s in value["steps"].items()},
        base=_text(value["base"] or ""),
        sealed=value["sealed"] == "age",
        python=_text(value["python"] or ""),
        platforms=tuple(map(_text, value["platforms"])),
        left_out=tuple(map(_text, value["left_out"])),
    )


def _piece(p: Mapping[str, Any]) -> Piece:
    part, offset, at, size = (_count(p[k]) for k in ("part", "offset", "at", "size"))
    return Piece(_digest(p["item"]), part, offset, at, size, _digest(p["digest"]))


def check(bundle: Bundle) -> None:
    """Raise ValueError (HybError for a path) where names are none, or the document contradicts itself."""
    if not _NAME.fullmatch(bundle.name) or not re.fullmatch(r"[0-9a-f]{64}", bundle.identity):
        raise ValueError("its name or id is none")
    for number, part in enumerate(bundle.parts, 1):
        if part.name != part_name(bundle.name, bundle.identity, number, sealed=bundle.sealed):
            raise ValueError(f"part {number} is called {part.name!r}")
    known = bundle.sizes()
    wanted = [*(c.digest for c in bundle.contents), *bundle.files.values(), *(o for _, o in bundle.steps.values())]
    if lost := next((d for d in wanted if d not in known), ""):
        raise ValueError(f"`{lost}` is named and nowhere in it")
    for path in bundle.files:
        if not path.startswith(_PLAIN) or not path.isprintable():
            raise ValueError(f"{path!r} is no place for a file")
        safe_path(path)
    for content in bundle.contents:
        for name in content.names:
            _check_name(name, content.kind, bundle.name)


def _check_name(name: str, kind: str, bundle: str) -> None:
    """A bundle gives names of its own recipe, of images, and of its wheels; never another recipe's."""
    own = name.startswith((f"{bundle}/", f"wheels/{bundle}")) or kind == "image"
    if not own or not re.fullmatch(r"[\w./:@+-]{1,255}", name, re.ASCII):
        raise ValueError(f"it would give the name {name!r}")


def _check_pieces(bundle: Bundle) -> None:
    ends: dict[str, int] = {}
    last = (0, 0)
    for piece in bundle.pieces:
        if not 1 <= piece.part <= len(bundle.parts):
            raise ValueError(f"there is no part {piece.part}")
        if (piece.part, piece.offset) < last or piece.offset + piece.size > bundle.parts[piece.part - 1].length:
            raise ValueError(f"a piece of `{piece.item}` lies where no piece can")
        last = (piece.part, piece.offset + piece.size)
        if piece.at != ends.get(piece.item, 0):
            raise ValueError(f"the pieces of `{piece.item}` do not fit each other")
        ends[piece.item] = piece.at + piece.size
    if ends != dict(bundle.items):
        raise ValueError("the pieces are not the items")
    if repeated := set(bundle.items) & set(bundle.assumes):
        raise ValueError(f"`{min(repeated)}` is in it and assumed")


def dump_inventory(sizes: Mapping[str, int]) -> bytes:
    """What a store has, for `--since` on the other side."""
    return strict_json_text({"hyb-inventory": INVENTORY_VERSION, "blobs": dict(sizes)})


def parse_since(data: bytes, where: str) -> tuple[dict[str, int], str]:
    """(what the inside has, the id of the bundle that says so or "") from a bundle's document or an inventory."""
    try:
        value = strict_json.load(data, 4 * MOST)
        if isinstance(value, dict) and value.get("hyb-inventory") == INVENTORY_VERSION:
            return {_digest(d): _count(s) for d, s in value["blobs"].items()}, ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HybError(f"`{where}` is neither a bundle nor an inventory: {error}",
                       hint="`hyb bundle inventory` on the inside writes one") from error  # fmt: skip
    bundle = parse(data, where)
    return bundle.sizes(), bundle.identity


def sums(bundle: Bundle, others: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA256SUMS, as sha256sum writes it; `others`: files beside the parts, name and content."""
    lines = [f"{p.sha256.removeprefix('sha256:')}  {p.name}" for p in bundle.parts]
    return "".join(f"{line}\n" for line in [*lines, *(sum_line(n, d) for n, d in others)]).encode()


def sum_line(name: str, data: bytes) -> str:
    """A line of SHA256SUMS."""
    return f"{dg.of_bytes(data).removeprefix('sha256:')}  {name}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _digest(value: Any) -> str:
    if not dg.is_digest(_text(value)):
        raise ValueError(f"{value!r} is no digest")
    return str(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no number of bytes")
    return value
