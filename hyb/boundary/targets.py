"""What is looked for: files by digest, rows of data, credentials, canaries. Gathered once, before anything is read.

Rows: the lines of questions and answers of training and held-out rows that are long enough to be told from others; a
line that a control question has, too, is common knowledge and left out. Up to MAX_LINES are looked for, chosen by
their hashes: of a larger data set, a file that leaks as a whole is found as surely, a single row perhaps not.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ahocorasick_rs import BytesAhoCorasick
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hyb import digest as dg
from hyb import fs, places
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.formats import chat_files, chat_stats, leaked_keys, needles, recognise, taxonomy_files
from hyb.formats.needles import Needle
from hyb.recipe import Recipe
from hyb.serving import keys as service_keys
from hyb.store import Store

MAX_LINES = 10_000
SHORTEST_CANARY = 4
_SMALLEST = 64
"""Bytes of a file that is known by its digest: shorter ones are equal by chance."""
_PARTS = ("train.jsonl", "holdout.jsonl", "control.jsonl")
_STEP = 1 << 20
_PIECES = 2048
"""A piece of a model every _STEP bytes, further apart where that would be more than _PIECES of a file."""
_KEYS = ("hyb_sk_", "PRIVATE KEY-----")
ENCODED = Needle("credential", "a key in base64")
"""The mark of a key in base64: whether there is one has to be seen."""


@dataclass
class Targets:
    """All that is looked for. `digests`: sha256 → (class, what). `api_keys`: sha256 of a key → what it opens.
    `authorities`: sha256 of a CA's public key → which one. `patterns`: squeezed bytes → what they mean.
    `parts`: what is told of a piece of a model."""

    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    patterns: dict[bytes, Needle] = field(default_factory=dict)
    api_keys: dict[str, str] = field(default_factory=dict)
    authorities: dict[str, str] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for text in _KEYS:
            for pattern in needles.raw_patterns(text.encode()) - {needles.squeeze(text.encode())}:
                self.patterns.setdefault(pattern, ENCODED)

    def add_file(self, digest: str, size: int, kind: str, what: str) -> None:
        """Look for a whole file."""
        if size >= _SMALLEST:
            self.digests.setdefault(digest, (kind, what))
            self.sizes.add(size)
            self.counts["known files"] = len(self.digests)

    def add_pieces(self, file: Path, size: int, what: str) -> None:
        """Look for parts of a weight file: what `split` made of it, or a layer that holds its second half."""
        step = max(_STEP, size // _PIECES)
        with file.open("rb") as stream:
            for at in range(step // 2, size, step):
                stream.seek(at)
                if piece := needles.piece(stream.read(256)):
                    self.patterns.setdefault(piece, Needle("weights", what))
                    self.counts["pieces of models"] = self.counts.get("pieces of models", 0) + 1
        self.parts.add(what)

    def add_text(self, text: str, needle: Needle, *, whole: bool = False) -> None:
        """Look for a text in all its forms."""
        for pattern in needles.patterns(text, whole=whole):
            if needle.kind == "canary":
                self.patterns[pattern] = needle
            else:
                self.patterns.setdefault(pattern, needle)

    def add_secret(self, data: bytes, what: str) -> None:
        """Look for the secret part of a key."""
        for pattern in needles.raw_patterns(data):
            self.patterns[pattern] = Needle("credential", what)

    def automaton(self) -> tuple[BytesAhoCorasick, list[Needle], int]:
        """The machine that finds all patterns in one pass, what each means, and the length of the longest."""
        return (
            BytesAhoCorasick(list(self.patterns)),
            list(self.patterns.values()),
            max(map(len, self.patterns), default=0),
        )


def gather(store: Store | None, recipe: Recipe | None, environ: Mapping[str, str], canaries: list[Path]) -> Targets:
    """What is looked for, from the store, a recipe's own files, the credentials of this host, and files of canaries."""
    found = Targets()
    lines = _Lines()
    if recipe:
        _recipe(found, lines, recipe)
    if store:
        _store(found, lines, store)
    for what, text in lines.chosen():
        found.add_text(text, Needle("data", what))
    found.counts["lines of data"] = len(lines.heap)
    if lines.count > len(lines.heap):
        found.notes.append(f"{len(lines.heap):,} of {lines.count:,} lines of data were looked for")
    _credentials(found, environ)
    for path in canaries:
        _canaries(found, path)
    return found


class _Lines:
    """Distinct lines of data, at most MAX_LINES: those with the smallest hashes."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, str, str]] = []
        self.seen: set[int] = set()
        self.common: set[str] = set()
        self.count = 0

    def add(self, what: str, text: str) -> None:
        for line in needles.distinctive(text):
            number = -int.from_bytes(hashlib.blake2b(line.encode(errors="replace"), digest_size=8).digest(), "big")
            if number in self.seen:
                continue
            self.count += 1
            self.seen.add(number)
            if len(self.heap) < MAX_LINES:
                heapq.heappush(self.heap, (number, what, line))
            elif number > self.heap[0][0]:
                self.seen.discard(heapq.heappushpop(self.heap, (number, what, line))[0])
            else:
                self.seen.discard(number)

    def add_common(self, text: str) -> None:
        self.common |= set(needles.distinctive(text)[:20]) if len(self.common) < MAX_LINES else set()

    def chosen(self) -> Iterator[tuple[str, str]]:
        self.heap = [entry for entry in self.heap if entry[2] not in self.common]
        for _, what, line in sorted(self.heap, reverse=True):
            yield what, line


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """What a row's people and models say; a system prompt is the same in every row, and in the service's settings."""
    for message in chat_stats.spoken(dict(row)):
        if isinstance(message, dict) and message.get("role") in ("user", "assistant"):
            for key in ("content", "reasoning", "reasoning_content"):
                if isinstance(message.get(key), str):
                    yield message[key]


def _recipe(found: Targets, lines: _Lines, recipe: Recipe) -> None:
    for entry in recipe.entries:
        if entry.stage != "data":
            continue
        spec: Any = entry.spec
        given = [spec.source, spec.holdout if isinstance(spec.holdout, str) else "", spec.control or ""]
        for part, source in zip(("train", "holdout", "control"), given, strict=True):
            path = recipe.folder / Path(source).expanduser() if source else None
            if path is None or not path.exists():
                continue
            for name, file in _data_files(path, texts=bool(spec.generate)):
                digest, size = dg.of_file(file)
                found.add_file(digest, size, "data", f"the file `{name}` of `{entry.name}`")
            if not spec.generate:
                for located in _located(path, answered=part == "train"):
                    _row(lines, part, f"row {located.line} of `{located.source}`", located.row.body())


def _data_files(path: Path, *, texts: bool) -> list[tuple[str, Path]]:
    """(name, file) of a source's files: rows, a taxonomy, or with `texts` whatever documents are there."""
    if texts and path.is_dir():
        return [(p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file()]
    leaves = taxonomy_files.files(path)
    if texts or leaves:
        return [(f.name, f.path) for f in leaves] or [(path.name, path)]
    return [(n.name, n.path) for n in chat_files.files(path)]


def _located(path: Path, *, answered: bool) -> Iterator[chat_files.Located]:
    """The good rows of a source. `answered`: they are to be trained on."""
    leaves = taxonomy_files.files(path)
    for leaf in leaves:
        yield from taxonomy_files.rows(taxonomy_files.read(leaf), "with")
    for named in [] if leaves else chat_files.files(path):
        yield from chat_files.rows(named, chat_files.Mistakes(), answered=answered)


def _row(lines: _Lines, part: str, what: str, row: Mapping[str, Any]) -> None:
    for text in _texts(row):
        if part.startswith("control"):
            lines.add_common(text)
        else:
            lines.add(what, text)


def _store(found: Targets, lines: _Lines, store: Store) -> None:
    names: dict[str, str] = {}
    for tag, digest in store.tags().items():
        names.setdefault(digest, tag)
    for artifact in store.artifacts():
        name = names.get(artifact.digest, artifact.digest.removeprefix("sha256:")[:12])
        if artifact.kind == "dataset":
            _dataset(found, lines, store, artifact, name)
        elif artifact.kind in ("model", "adapter"):
            _model(found, store, artifact, name)


def _dataset(found: Targets, lines: _Lines, store: Store, artifact: Artifact, name: str) -> None:
    for file in artifact.files:
        if file.path not in _PARTS or not store.has_blob(file.blob):
            continue
        found.add_file(file.blob.digest, file.blob.size, "data", f"`{file.path}` of `{name}`")
        with store.blob_path(file.blob.digest).open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                    _row(lines, file.path, f"line {number} of `{file.path}` of `{name}`", row)
                except (ValueError, AttributeError, TypeError):
                    continue


def _model(found: Targets, store: Store, artifact: Artifact, name: str) -> None:
    """Weight files by their content: a tokenizer or a licence is no secret, and is the same in many models."""
    for file in artifact.files:
        if not store.has_blob(file.blob):
            continue
        with store.blob_path(file.blob.digest).open("rb") as stream:
            known = recognise.weights(stream.read(recognise.HEAD))
        if known:
            kind = "adapter" if artifact.kind == "adapter" else known[0]
            what = f"`{file.path}` of `{name}`"
            found.add_file(file.blob.digest, file.blob.size, kind, what)
            if kind == "weights":
                found.add_pieces(store.blob_path(file.blob.digest), file.blob.size, f"a part of {what}")


# -- credentials ---------------------------------------------------------------------------------------------------


def _credentials(found: Targets, environ: Mapping[str, str]) -> None:
    try:
        serve = service_keys.folder(environ)
    except HybError:
        return  # no home: then there are none
    link = Path(environ["HYB_CREDENTIALS"]) / "link" if environ.get("HYB_CREDENTIALS") else (
        places.data_home(environ) / "credentials" / "link")  # fmt: skip
    with fs.explained("can't read the credentials of this host, to look for them"):
        for path in sorted(serve.glob("*.key")) if serve.is_dir() else []:
            key = path.read_bytes().strip()
            if len(key) >= needles.SHORTEST:
                found.add_secret(key, f"the key of the service `{path.stem}`")
                found.api_keys[service_keys.hashed(key)] = f"the key of the service `{path.stem}`"
        for name in service_keys.services(environ) if serve.is_dir() else []:
            for kept in service_keys.read(service_keys.keys_path(environ, name)):
                found.api_keys[kept.sha256] = f"the key `{kept.label}` of the service `{name}`"
        for path in sorted(link.rglob("*.pem")) if link.is_dir() else []:
            _pem(found, path.read_bytes(), f"link `{path.parent.name}`, {path.stem}")
    found.counts["credentials"] = len(found.api_keys) + sum("private key of" in n.what for n in _once(found))


def _once(found: Targets) -> set[Needle]:
    return set(found.patterns.values())


def _pem(found: Targets, data: bytes, name: str) -> None:
    for authority in authorities(data):
        found.authorities[authority] = name
    for key in leaked_keys.find(data):
        secret = secret_part(leaked_keys.der(key.value))
        if secret:
            found.add_secret(secret, f"the private key of {name}")


def authorities(data: bytes) -> list[str]:
    """sha256 of the public key of every CA certificate in a PEM text."""
    try:
        certificates = x509.load_pem_x509_certificates(data) if b"-----BEGIN CERTIFICATE-----" in data else []
    except (ValueError, UnsupportedAlgorithm):
        return []
    found = []
    for certificate in certificates:
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_ca = False
        if is_ca:
            found.append(_spki(certificate.public_key()))
    return found


def public_part(pem: bytes) -> str:
    """sha256 of the public key of a private one; "" for one that is encrypted or none at all."""
    key = _private(leaked_keys.der(pem))
    return _spki(key.public_key()) if key else ""


def secret_part(der: bytes) -> bytes:
    """The bytes of a private key that only its owner knows; of an encrypted one, its end."""
    key = _private(der)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = key.private_numbers()
        return numbers.private_value.to_bytes((key.key_size + 7) // 8, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        prime = key.private_numbers().p
        return prime.to_bytes((prime.bit_length() + 7) // 8, "big")[:48]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.private_bytes_raw()
    return der[-48:] if len(der) >= 64 else b""


def _private(der: bytes) -> Any:
    try:
        return serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _spki(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


# -- canaries ------------------------------------------------------------------------------------------------------


def _canaries(found: Targets, path: Path) -> None:
    """A line of the file each. Raises HybError (exit 3) for a file without any, or with one that is too short."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise HybError(f"`{path}` can't be read: {os.strerror(error.errno or 0).lower()}") from error
    except UnicodeDecodeError as error:
        raise HybError(f"`{path}` is not UTF-8 (byte {error.start})") from error
    texts = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    short = [f"{path}:{n}: a canary has {SHORTEST_CANARY} letters or more" for n, t in texts
             if len(needles.squeeze(t.encode())) < SHORTEST_CANARY]  # fmt: skip
    if short or not texts:
        raise HybError(f"`{path}` holds no canaries", details=short, code=Exit.INPUT,
                       hint="one text a line, that stands nowhere but in what must not leave")  # fmt: skip
    for number, text in texts:
        found.add_text(text, Needle("canary", f"canary {number} of `{path.name}`"), whole=True)
    found.counts["canaries"] = found.counts.get("canaries", 0) + len(texts)
