"""Kubernetes documents: each finding gets its document and field, and a credential in a Secret is where it belongs.

What is looked for besides: values in base64 (decoded, and looked into like any file), literal values of settings that
are secrets, and the private key of a CA, which has no business in a Secret either. The one exception is the issuer that
a RouterAccess of the same folder names: there somebody chose to let the cluster sign.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hyb.boundary import targets as tg
from hyb.boundary.report import Place
from hyb.boundary.watch import Hit
from hyb.formats import leaked_keys, manifest_fields, recognise
from hyb.formats.manifest_fields import Document, Field
from hyb.formats.tar_read import Reader

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_ARGUMENT = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.+))?$", re.DOTALL)
_HARMLESS = re.compile(r"\s*$|\$\(\w+\)$|\$\{?\w+\}?$|/\S*$|<[^>]*>$|(?:true|false|none|null|changeme)$", re.IGNORECASE)


@dataclass
class Keys:
    """Private keys and certificates of a whole check: only at its end is it known which key is a CA's."""

    private: list[tuple[str, Place]] = field(default_factory=list)
    authorities: dict[str, str] = field(default_factory=dict)
    issuers: set[str] = field(default_factory=set)
    """Names of Secrets that a RouterAccess names as its issuer."""

    def signing(self) -> Iterator[tuple[Place, bool]]:
        """(place, whether a RouterAccess asks for it) of every private key of a CA."""
        for public, place in self.private:
            if public in self.authorities:
                yield place, place.document.removeprefix("Secret ") in self.issuers


@dataclass
class Sheet:
    """One file of documents, as far as it can be read."""

    documents: list[Document]
    place: Place
    secret_allowed: bool
    """False within an image: there even a Secret is a leak."""

    def judge(
        self, raw: Iterable[Hit], find: Callable[[bytes], Iterable[Hit]], keys: Keys
    ) -> Iterator[tuple[Hit, Place]]:
        """The hits that are violations, each with its place.

        `raw`: those of the text as a whole; what no field has (a comment, a key) is told by its line. `find`: the hits
        in a field's value.
        """
        known: dict[tuple[str, str], list[Field]] = {}
        for document in self.documents:
            for entry in document.fields:
                for hit in find(entry.value.encode(errors="replace")):
                    known.setdefault((hit.kind, hit.what), []).append(entry)
                    place = self._place(document, entry)
                    if hit.kind == "credential" and self._may_hold(document, entry):
                        note(keys, hit.value, place)
                    else:
                        yield hit, place
        for hit in raw:
            if not any(f.line <= (hit.line or 0) <= f.last for f in known.get((hit.kind, hit.what), ())):
                yield hit, self.place.at(line=hit.line)

    def more(self, look: Callable[[Reader, Place, bool], None]) -> Iterator[tuple[str, str, Place]]:
        """(class, what, place) of settings that hold a secret; `look` gets each value that stands in base64."""
        for document in self.documents:
            for entry in document.fields:
                place = self._place(document, entry)
                yield from ((kind, what, place) for kind, what in _settings(document, entry))
                for data in _contents(document, entry):
                    look(io.BytesIO(data), place, self._may_hold(document, entry))

    def note_keys(self, keys: Keys) -> None:
        """Remember CA certificates and issuers."""
        for document in self.documents:
            for entry in document.fields:
                kind, _, path = document.owner(entry.path)
                if kind == "RouterAccess" and path == ("spec", "issuer"):
                    keys.issuers.add(entry.value)
                text = _decoded(document, entry) or entry.value.encode(errors="replace")
                for authority in tg.authorities(text):
                    keys.authorities.setdefault(authority, str(self.place))

    def _may_hold(self, document: Document, entry: Field) -> bool:
        """True where a credential belongs: in the data of a Secret."""
        kind, _, path = document.owner(entry.path)
        return self.secret_allowed and kind == "Secret" and path[:1] in (("data",), ("stringData",))

    def _place(self, document: Document, entry: Field) -> Place:
        kind, name, path = document.owner(entry.path)
        return self.place.at(line=entry.line, document=f"{kind} {name}".strip(), field=manifest_fields.dotted(path))


def read(text: bytes, place: Place, *, secret_allowed: bool) -> Sheet | None:
    """The documents of a text; None when it is no YAML, or holds no object with a kind."""
    try:
        found = manifest_fields.documents(text.decode())
    except (ValueError, RecursionError):
        return None
    with_kind = [d for d in found if any(f.path[-1:] == ("kind",) for f in d.fields)]
    return Sheet(found, place, secret_allowed) if with_kind else None


def note(keys: Keys, value: bytes, place: Place) -> None:
    """Remember a private key that stands where it may, to be compared with the CAs."""
    if public := tg.public_part(value):
        keys.private.append((public, place))


def _decoded(document: Document, entry: Field) -> bytes:
    """What a value in base64 stands for: always of a Secret's data, else only where it is plainly base64."""
    kind, _, path = document.owner(entry.path)
    always = (kind == "Secret" and path[:1] == ("data",)) or path[:1] == ("binaryData",)
    if not always and not _BASE64.fullmatch(entry.value):
        return b""
    try:
        return base64.b64decode("".join(entry.value.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _contents(document: Document, entry: Field) -> list[bytes]:
    """What a value holds in base64: the whole of it, or the archives within."""
    if whole := _decoded(document, entry):
        return [whole]
    return [data for _, data in recognise.encoded(entry.value.encode(errors="replace"))]


def _settings(document: Document, entry: Field) -> Iterator[tuple[str, str]]:
    """Literal values of secrets: in `env`, in arguments, in a ConfigMap. The value itself is not told."""
    kind, _, path = document.owner(entry.path)
    if _HARMLESS.match(entry.value) or kind == "Secret":
        return
    if path[-1:] == ("value",) and len(path) > 2 and path[-3] in ("env", "environment"):
        name = document.value((*entry.path[:-1], "name"))
        if leaked_keys.NAMES.search(name):
            yield "credential", f"a literal value of `{name}`; it belongs into a Secret"
    elif kind == "ConfigMap" and path[:1] == ("data",) and leaked_keys.NAMES.search(str(path[-1])):
        yield "credential", f"a literal value of `{path[-1]}`; it belongs into a Secret"
    elif len(path) > 1 and path[-2] in ("args", "command") and isinstance(path[-1], int):
        hit = _ARGUMENT.match(entry.value)
        flag = _ARGUMENT.match(document.value((*entry.path[:-1], path[-1] - 1)))
        if hit and hit[2] and leaked_keys.NAMES.search(hit[1]) and not _HARMLESS.match(hit[2]):
            yield "credential", f"a literal value of `--{hit[1]}`; it belongs into a Secret"
        elif not hit and flag and not flag[2] and leaked_keys.NAMES.search(flag[1]):
            yield "credential", f"a literal value of `--{flag[1]}`; it belongs into a Secret"
