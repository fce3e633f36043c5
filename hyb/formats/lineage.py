"""What an artifact was made from, as data, and that as text, as JSON and as Graphviz's dot. Pure.

A lineage is a graph without circles: each node is an artifact, with the step that made it, what the step was given, and
what is wrong with either. `hyb.attest.trace` finds it in a store, `hyb.formats.lineage_chart` draws it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Word = Mapping[str, int]
DEEPEST = 40
"""Steps that a tree in text goes to the right; a longer chain goes on at the margin."""


@dataclass(frozen=True)
class Source:
    """What no step made: a model on a hub, a package, a file. `digest`: `sha256:…`, `gitCommit:…`, `hybTree:…`."""

    name: str
    uri: str
    digest: str
    rows: Word = field(default_factory=dict)
    """Of a file of data: part (`train`) → rows that came from it."""


@dataclass(frozen=True)
class Signature:
    """A signature that the store has. `key`: its id; `of`: "artifact" or "receipt". Not checked here."""

    key: str
    of: str
    digest: str


@dataclass(frozen=True)
class Node:
    """One artifact and how it came to be."""

    digest: str
    kind: str
    names: tuple[str, ...] = ()
    stage: str = ""
    key: str = ""
    receipt: str = ""
    """Digest of the receipt (the artifact); "" for none."""
    statement: str = ""
    """Digest of its statement (the blob)."""
    finished: str = ""
    about: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    """(what the step calls it, its digest)."""
    sources: tuple[Source, ...] = ()
    signatures: tuple[Signature, ...] = ()
    programs: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call it."""
        return self.names[0] if self.names else f"{self.kind} {short(self.digest)}"


@dataclass(frozen=True)
class Lineage:
    """`roots` are what was asked for; `nodes` all artifacts behind them, each after all that it was made from."""

    roots: tuple[str, ...]
    nodes: Mapping[str, Node]

    @property
    def problems(self) -> list[str]:
        """All that is wrong, a line each."""
        return [f"{node.title}: {text}" for node in self.nodes.values() for text in node.problems]


def short(digest: str) -> str:
    """The first 12 digits, for people."""
    return digest.rpartition(":")[2][:12]


def clean(text: object) -> str:
    """A text from elsewhere as one line without control characters: nothing in it moves a terminal's cursor, or turns
    the reading direction."""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text).replace("\n", " "))
    return kept if len(kept) <= 200 else kept[:199] + "…"


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping as it is, and nothing in place of what is none: whoever made the artifact may be a stranger."""
    return value if isinstance(value, Mapping) else {}


# -- text ----------------------------------------------------------------------------------------------------------


def text(lineage: Lineage) -> str:
    """A tree for a terminal. What was shown above is not shown again."""
    seen: set[str] = set()
    lines: list[str] = []
    roots = list(lineage.roots)
    for root in roots:  # grows
        if root not in seen or root in lineage.roots:
            lines += _branch(lineage, root, "", _Drawn(seen, roots))
    wrong = lineage.problems
    steps = sum(1 for n in lineage.nodes.values() if n.receipt)
    end = f"{len(wrong)} link{'s' if len(wrong) > 1 else ''} broken" if wrong else "every link is whole"
    return "\n".join([*lines, "", f"{len(lineage.nodes)} artifacts, {steps} receipts; {end}"])


@dataclass(frozen=True)
class _Drawn:
    """How far the tree is drawn: `seen` what stands in it, `below` what goes on at the margin, `deep` steps in."""

    seen: set[str]
    below: list[str]
    deep: int = 0


def _branch(lineage: Lineage, digest: str, role: str, drawn: _Drawn) -> list[str]:
    node = lineage.nodes[digest]
    called = clean(node.title) + (f" ({clean(role)})" if role and role != node.title.rpartition("/")[2] else "")
    head = f"{called}  {node.kind} {short(digest)}"
    if digest in drawn.seen:
        return [f"{head}  see above"]
    if drawn.deep == DEEPEST:
        drawn.below.append(digest)
        return [f"{head}  see below"]
    drawn.seen.add(digest)
    lines = [f"{head}  {node.stage} {node.finished}".rstrip()]
    branches = [_leaf(s) for s in node.sources]
    deeper = replace(drawn, deep=drawn.deep + 1)
    branches += [_branch(lineage, d, name, deeper) for name, d in node.inputs if d in lineage.nodes]
    bar = "│ " if branches else "  "
    lines += [f"{bar} {clean(line)}" for line in node.about]
    lines += [f"{bar} receipt {short(node.receipt)}"] if node.receipt else []
    # hyb and model-signing name a key by the file of its public half
    lines += [f"{bar} {s.of} signed by the key whose PEM file is {clean(s.key)}" for s in node.signatures]
    lines += [f"{bar} BROKEN: {clean(problem)}" for problem in node.problems]
    for number, branch in enumerate(branches):
        last = number == len(branches) - 1
        lines.append(("└─ " if last else "├─ ") + branch[0])
        lines += [("   " if last else "│  ") + line for line in branch[1:]]
    return lines


def _leaf(source: Source) -> list[str]:
    rows = ", ".join(f"{n} {part}" for part, n in source.rows.items())
    kind, _, digits = source.digest.partition(":")
    said = f"{clean(source.name)}  {kind} {digits[:12] if kind != 'gitCommit' else digits}" if digits else source.name
    place = f"  {clean(source.uri)}" if source.uri not in ("", source.name, f"file:{source.name}") else ""
    return [f"{said}{place}" + (f"  {rows} rows" if rows else "")]


# -- JSON ----------------------------------------------------------------------------------------------------------


def as_dict(lineage: Lineage) -> dict[str, Any]:
    """The lineage as JSON: nodes in order, each after what it was made from."""
    return {
        "roots": list(lineage.roots),
        "whole": not lineage.problems,
        "nodes": [
            {
                "digest": n.digest, "kind": n.kind, "names": list(n.names), "stage": n.stage, "key": n.key,
                "receipt": n.receipt, "statement": n.statement, "finished": n.finished, "about": list(n.about),
                "inputs": [{"name": name, "digest": d} for name, d in n.inputs],
                "sources": [
                    {"name": s.name, "uri": s.uri, "digest": s.digest, "rows": dict(s.rows)} for s in n.sources
                ],
                "signatures": [{"key": s.key, "of": s.of, "digest": s.digest} for s in n.signatures],
                "programs": dict(n.programs), "problems": list(n.problems),
            }
            for n in lineage.nodes.values()
        ],
    }  # fmt: skip


# -- dot -----------------------------------------------------------------------------------------------------------


def dot(lineage: Lineage) -> str:
    """The graph for Graphviz: `dot -Tpdf`."""
    lines = ["digraph lineage {", '  rankdir="TB"; node [shape=box, fontname="sans-serif"];']
    for name, label, broken, kind in boxes(lineage):
        colour = ', color="red"' if broken else ""
        shape = "note" if kind == "source" else "box"
        lines.append(f"  {_quoted(name)} [label={_quoted(label)}, shape={shape}{colour}];")
    lines += [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in edges(lineage)]
    return "\n".join([*lines, "}"]) + "\n"


def boxes(lineage: Lineage) -> Iterator[tuple[str, str, bool, str]]:
    """(id, label of up to three lines, whether broken, kind) of each box; a source's kind is "source"."""
    told: set[str] = set()
    for node in lineage.nodes.values():
        for source in node.sources:
            if (name := source_id(source)) not in told:
                told.add(name)
                rows = ", ".join(f"{n} {part}" for part, n in source.rows.items())
                second = rows or clean(source.uri if source.uri != f"file:{source.name}" else "")
                lines = [clean(source.name), second, f"{source.digest.partition(':')[0]} {short(source.digest)}"]
                yield name, "\n".join(x for x in lines if x), False, "source"
        what = f"{node.kind} {short(node.digest)}"
        third = "BROKEN" if node.problems else (node.about[0] if node.about else "")
        yield node.digest, "\n".join(clean(x) for x in (node.title, what, third) if x), bool(node.problems), node.kind


def edges(lineage: Lineage) -> list[tuple[str, str]]:
    """(from, to): to was made from from; once each."""
    found: dict[tuple[str, str], None] = {}
    for node in lineage.nodes.values():
        for source in node.sources:
            found[source_id(source), node.digest] = None
        for _, digest in node.inputs:
            if digest in lineage.nodes:
                found[digest, node.digest] = None
    return list(found)


def source_id(source: Source) -> str:
    """One source, however many steps were given it."""
    return f"{source.uri} {source.digest}"


def _quoted(text: str) -> str:
    return json.dumps("\n".join(map(clean, text.split("\n"))), ensure_ascii=False)
