"""The statement that the OpenSSF model-signing format signs: every file of a model by its path and sha256. Pure.

An in-toto Statement v1 whose predicate lists the files; its one subject is the sha256 over their digests. Read more
strictly than model-signing itself does: whole files by sha256 alone, no links, and nothing is left out because the
signature says so (its `ignore_paths` has no power here). A statement that hyb made also names the manifest in
`predicate.artifact`, so that what hyb noted beside the files (licence, base model) is signed, too; readers of v1.0
pass over that key. Source: https://github.com/sigstore/model-transparency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb import digest as dg
from hyb.artifact import safe_path
from hyb.errors import Exit, HybError
from hyb.formats import strict_json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
MOST = 24 << 20
"""Bytes of a statement."""


@dataclass(frozen=True)
class Signed:
    """What a statement covers: `files` path → `sha256:<hex>`; `artifact` the manifest's digest, or ""."""

    files: Mapping[str, str]
    artifact: str = ""


def statement(name: str, files: Mapping[str, str], artifact: str = "") -> bytes:
    """The statement over `files` (path → `sha256:<hex>`), as canonical JSON."""
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(_hex(d)) for _, d in ordered)).hexdigest()
    predicate: dict[str, Any] = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": [{"name": p, "algorithm": "sha256", "digest": _hex(d)} for p, d in ordered],
    }
    if artifact:
        predicate["artifact"] = {"digest": {"sha256": _hex(artifact)}}
    return dg.canonical_json(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
    )


def read(payload: bytes) -> Signed:
    """What a statement covers. Raises HybError (exit 4) for one that is none, or speaks of less than whole files."""
    try:
        value = strict_json.load(payload, MOST)
        if value["_type"] != STATEMENT or value["predicateType"] != PREDICATE:
            raise _wrong(f"its statement is {value['predicateType']!r}, not `{PREDICATE}`")
        predicate, subjects = value["predicate"], value["subject"]
        how, resources = predicate["serialization"], predicate["resources"]
        if (wrong := _how(how)) or len(subjects) != 1:
            raise _wrong(wrong or f"it names {len(subjects)} models")
        files: dict[str, str] = {}
        for one in resources:
            path, digest = safe_path(one["name"]), f"sha256:{one['digest']}"
            if one["algorithm"] != "sha256" or not dg.is_digest(digest) or path in files:
                raise _wrong(f"file {path!r} is listed twice, or not by its sha256")
            files[path] = digest
        root = hashlib.sha256(b"".join(bytes.fromhex(_hex(files[r["name"]])) for r in resources)).hexdigest()
        if not files or subjects[0]["digest"]["sha256"] != root:
            raise _wrong("the digest over its files is not that of its subject")
        artifact = predicate.get("artifact")
        named = f"sha256:{artifact['digest']['sha256']}" if artifact else ""
        if named and not dg.is_digest(named):
            raise _wrong("the manifest that it names is none")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _wrong(f"its statement can't be read ({type(error).__name__})") from error
    return Signed(files, named)


def compare(signed: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """How the files that are here differ from those that were signed, a line each. Both: path → digest."""
    lines = [f"`{p}` is not signed" for p in sorted(here.keys() - signed.keys())]
    lines += [f"`{p}` was signed and is missing" for p in sorted(signed.keys() - here.keys())]
    return lines + [
        f"`{p}` is not what was signed" for p in sorted(here.keys() & signed.keys()) if here[p] != signed[p]
    ]


def _how(how: Any) -> str:
    """Why files signed in this way can't be checked, or ""."""
    if how["method"] != "files":
        return f"it signs by {how['method']!r}; hyb checks whole files: sign with `--method files`"
    if how["hash_type"] != "sha256":
        return f"it hashes by {how['hash_type']!r}, which hyb does not take (nor model-signing always): sign by sha256"
    if how.get("allow_symlinks") is not False:
        return "it lets symbolic links stand for files: sign a folder without any"
    return ""


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _wrong(message: str) -> HybError:
    return HybError(f"no signature of a model that hyb can check: {message}",
                    hint="`hyb sign` and `model_signing sign key` write what it takes", code=Exit.CHECK)  # fmt: skip
