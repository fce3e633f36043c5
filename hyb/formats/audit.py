"""What an auditor is told of a recipe, as data, and the checks that need none of hyb. Pure.

Each check is a line for a shell, with what it must print. It takes `STORE`, the store's folder, from the environment,
and runs in the recipe's folder; of programs it needs coreutils, jq, openssl or skopeo.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hyb.formats.lineage import Lineage, Node, Signature

_BUNDLE = '"$STORE/blobs/sha256/{hex}"'
SIGNED = " && ".join(
    (
        "d=$(mktemp -d)",
        f"b={_BUNDLE}",
        'jq -r .dsseEnvelope.payload "$b" | base64 -d > "$d/payload"',
        """jq -r '.dsseEnvelope.signatures[0].sig' "$b" | base64 -d > "$d/sig\"""",
        't=$(jq -r .dsseEnvelope.payloadType "$b")',
        """printf 'DSSEv1 %d %s %d ' "${{#t}}" "$t" "$(wc -c < "$d/payload")" | cat - "$d/payload" > "$d/pae\"""",
        'k=$(openssl pkey -pubin -in "$KEY" -noout -text)',
        'case "$k" in ED25519*) h= ;; *P-521*) h=sha512 ;; *P-384*) h=sha384 ;; *) h=sha256 ;; esac',
        'if [ "$h" ]; then openssl dgst "-$h" -verify "$KEY" -signature "$d/sig" "$d/pae"; '
        'else openssl pkeyutl -verify -pubin -inkey "$KEY" -rawin -in "$d/pae" -sigfile "$d/sig" '
        "&& echo Verified OK; fi",
    )
)
"""What is signed in a DSSE envelope is its `PAE`: https://github.com/secure-systems-lab/dsse. EC keys sign its hash."""
SPEAKS = (
    f"jq -r .dsseEnvelope.payload {_BUNDLE} | base64 -d | "
    "jq -r '.predicate.artifact.digest.sha256 // .subject[0].digest.sha256'"
)
"""What a signature is about: of a model's files, the manifest that hyb names beside them."""
SIMPLY = " && ".join(
    (
        "d=$(mktemp -d)",
        """jq -r '.layers[0].annotations["dev.cosignproject.cosign/signature"]' "$STORE/blobs/sha256/{manifest}" """
        '| base64 -d > "$d/sig"',
        f'openssl dgst -sha256 -verify "$KEY" -signature "$d/sig" {_BUNDLE}',
    )
)
"""An image's signature in cosign's older form: beside what is signed, in the manifest."""
SIMPLE_SPEAKS = """jq -r '.critical.image["docker-manifest-digest"]' """ + _BUNDLE
DSSE, FILES, SIMPLE = "dsse", "files", "simple"


@dataclass(frozen=True)
class Exam:
    """One exam. `report`: its JSON, whose questions are not told."""

    name: str
    digest: str
    report: Mapping[str, Any]
    gate: Mapping[str, str]


@dataclass(frozen=True)
class Bundle:
    """What a signature is kept in. `blob`: its digest; `form`: DSSE, FILES (a publisher's, of files alone), SIMPLE."""

    blob: str
    form: str = DSSE


@dataclass(frozen=True)
class Audit:
    """All that the page shows."""

    name: str
    stages: tuple[tuple[str, str, str], ...]
    """(name, stage, digest of its output or "")."""
    lineage: Lineage
    licences: tuple[tuple[str, str, str], ...]
    """(artifact, digest, licence or "")."""
    allowed: tuple[str, ...] | None
    """The licences that the recipe allows, lower case; None: it says nothing of them."""
    exams: tuple[Exam, ...]
    boundary: Mapping[str, str] | None
    files: tuple[tuple[str, str, str, int], ...]
    """(artifact, path, digest, bytes) of each file."""
    statements: str
    """The in-toto statements, one a line, in their own bytes."""
    bom: str
    """The CycloneDX document."""
    bundles: Mapping[str, Bundle]
    """Digest of a signature → what it is kept in."""
    problems: tuple[str, ...]
    hyb: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The stages that have not run."""
        return tuple(name for name, _, digest in self.stages if not digest)

    @property
    def signatures(self) -> list[tuple[str, Signature]]:
        """(what is signed, the signature) of all in the lineage."""
        return [(n.title, s) for n in self.lineage.nodes.values() for s in n.signatures]


@dataclass(frozen=True)
class Check:
    """A line for a shell and what it must print. `needs`: a program beside coreutils; `title`: what it shows."""

    title: str
    command: str
    prints: str
    needs: str = ""


def checks(audit: Audit) -> Iterator[Check]:
    """How to check each part with plain tools, in the order of the page."""
    nodes = [n for n in audit.lineage.nodes.values() if not n.problems]
    hexes = " ".join(sorted({h for n in nodes for d in (n.digest, n.receipt, n.statement) if (h := d[7:])}))
    summed = 'do echo "$f  $f"; done | sha256sum --check --quiet && echo whole'
    yield Check(
        "Every manifest, receipt and statement has the bytes that its name, a sha256, says",
        f'cd "$STORE/blobs/sha256" && for f in {hexes}; {summed}',
        "whole",
    )
    yield Check(
        "Every blob of the store has them (reads all of it)",
        f'cd "$STORE/blobs/sha256" && for f in *; {summed}',
        "whole",
    )
    for name, digest in _named(audit):
        yield Check(
            f"`{name}` is the artifact of this page",
            f'skopeo inspect --raw "oci:$STORE":{shlex.quote(name)} | sha256sum', digest[7:], "skopeo",
        )  # fmt: skip
    for node in nodes:
        if node.statement:
            blob = f'"$STORE/blobs/sha256/{node.statement[7:]}"'
            yield Check(
                f"The receipt of {node.title} speaks of this artifact",
                f"jq -r '.subject[0].digest.sha256' {blob}", node.digest[7:], "jq",
            )  # fmt: skip
            for name, digest in node.inputs:
                yield Check(
                    f"It names {name} as what it was made from",
                    f"jq -r '.predicate.buildDefinition.resolvedDependencies[].digest.sha256' {blob}", digest[7:], "jq",
                )  # fmt: skip
    for source in {s.uri: s for n in nodes for s in n.sources}.values():
        if source.uri.startswith("file:") and source.digest.startswith("sha256:") and "#" not in source.uri:
            path = source.uri.removeprefix("file:")
            yield Check(
                f"The file {path} is the one that was read", f"sha256sum {shlex.quote(path)}", source.digest[7:]
            )
    for node in audit.lineage.nodes.values():
        for signature in node.signatures:
            if bundle := audit.bundles.get(signature.digest):
                yield from _signature(node, signature, bundle)


def _signature(node: Node, signature: Signature, bundle: Bundle) -> Iterator[Check]:
    """That it is good, and that it speaks of this artifact: one of another thing would be good, too."""
    of = f"{node.title} ({signature.of}) by {signature.key}"
    simple = bundle.form == SIMPLE
    places = {"hex": bundle.blob[7:], "manifest": signature.digest[7:]}
    yield Check(
        f"The signature of {of} is good (KEY is the file of its public key)",
        (SIMPLY if simple else SIGNED).format(**places), "Verified OK", "openssl",
    )  # fmt: skip
    if bundle.form != FILES:
        yield Check(
            f"The signature of {of} is about this artifact", (SIMPLE_SPEAKS if simple else SPEAKS).format(**places),
            node.digest if simple else node.digest[7:], "jq",
        )  # fmt: skip


def _named(audit: Audit) -> Iterator[tuple[str, str]]:
    """The outputs that have their name in the store."""
    for name, _, digest in audit.stages:
        node = audit.lineage.nodes.get(digest)
        full = f"{audit.name}/{name}"
        if node and full in node.names and not node.problems:
            yield full, digest
