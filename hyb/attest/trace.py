"""The lineage of artifacts, found in a store. Nothing is believed that a digest does not bear out.

A link is whole when the artifact is in the store, its receipt is a valid statement of that very artifact, what the
receipt says it was made from is in the store and has a receipt of its own, all that the artifact itself names is behind
it, and the step's parameters give the step's key. What is not so is a problem of the node, and the walk goes on by
what the artifact says itself. A receipt that someone made anew from end to end is told only by a signature or a lock.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from hyb import digest as dg
from hyb import receipt as receipts
from hyb import stages
from hyb.artifact import Artifact, short
from hyb.errors import Exit, HybError
from hyb.formats import intoto, lineage
from hyb.formats.lineage import Lineage, Node, Signature, Source, mapping
from hyb.plan import key_of
from hyb.store import Store

OWN = ("base", "adapter", "data", "model")
"""What artifacts name in their facts by digest."""
PARTS = ("train", "holdout", "control")
_MADE = ("receipt", "signature")


def trace(store: Store, digests: Iterable[str], *, rows: bool = True) -> Lineage:
    """The lineage behind some artifacts of a store. `rows`: count the rows that came from each file of data.

    Raises HybError (exit 4) only when the store's index can't be read.
    """
    walk = _Walk(store, rows)
    roots = tuple(dict.fromkeys(digests))
    for digest in roots:
        walk.visit(digest)
    nodes = {d: _behind(n, walk) for d, n in walk.nodes.items()}
    return Lineage(roots, nodes)


def referrers(store: Store) -> dict[str, list[Artifact]]:
    """Digest → the artifacts that refer to it, of the whole store; what can't be read is passed over."""
    found: dict[str, list[Artifact]] = {}
    for digest in store.digests():
        artifact = read(store, digest)
        if artifact and artifact.subject:
            found.setdefault(artifact.subject, []).append(artifact)
    return found


def read(store: Store, digest: str) -> Artifact | None:
    """An artifact, or None where it is not here or damaged."""
    try:
        return store.artifact(digest)
    except (HybError, ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class _Said:
    """A valid receipt."""

    artifact: Artifact
    statement: Mapping[str, Any]


@dataclass
class _Way:
    """A node that is being visited, and what it was made from that is still to be looked at."""

    node: Node
    left: Iterator[str]


class _Walk:
    """Depth first; a node is noted when all behind it are."""

    def __init__(self, store: Store, rows: bool) -> None:
        self.store, self.rows = store, rows
        self.nodes: dict[str, Node] = {}
        self.named: dict[str, set[str]] = {}
        self.open: set[str] = set()
        self.names: dict[str, list[str]] = {}
        for name, digest in sorted(store.tags().items()):
            self.names.setdefault(digest, []).append(name)
        self.referrers = referrers(store)

    def visit(self, root: str) -> None:
        """Note a node and all behind it."""
        ways = [] if root in self.nodes else [self._begin(root)]
        while ways:
            way = ways[-1]
            below = next(way.left, None)
            if below is None:
                self._end(ways.pop())
            elif below in self.open:
                circle = f"it is said to be made from `{short(below)}`, which is made from it: a circle"
                way.node = replace(way.node, problems=(*way.node.problems, circle))
            elif below not in self.nodes:
                ways.append(self._begin(below))

    def _begin(self, digest: str) -> _Way:
        self.open.add(digest)
        node, self.named[digest] = self._node(digest)
        return _Way(node, iter([d for _, d in node.inputs]))

    def _end(self, way: _Way) -> None:
        inputs = tuple((name, d) for name, d in way.node.inputs if d not in self.open)
        self.open.discard(way.node.digest)
        self.nodes[way.node.digest] = replace(way.node, inputs=inputs)

    def _node(self, digest: str) -> tuple[Node, set[str]]:
        names = tuple(self.names.get(digest, ()))
        problems: list[str] = []
        artifact = self._artifact(digest, problems)
        said = self._receipt(digest, problems)
        kind = artifact.kind if artifact else "artifact"
        named = _named(artifact) if artifact else set()
        signatures = tuple(self._signatures(digest, "artifact"))
        if said is None:
            problems.append("no valid receipt says how it was made")
            inputs = tuple((short(d), d) for d in sorted(named))
            return Node(digest, kind, names, about=_about(artifact), inputs=inputs, signatures=signatures,
                        problems=tuple(problems)), named  # fmt: skip
        s = said.statement
        signatures += tuple(self._signatures(said.artifact.digest, "receipt"))
        return Node(
            digest, kind, names, stage=intoto.stage(s), key=intoto.metadata(s, "invocationId"),
            receipt=said.artifact.digest, statement=said.artifact.file(receipts.FILE).blob.digest,
            finished=intoto.metadata(s, "finishedOn"), about=_about(artifact), inputs=tuple(intoto.inputs(s).items()),
            sources=self._sources(s, artifact), signatures=signatures, programs=intoto.programs(s),
            problems=tuple(problems),
        ), named  # fmt: skip

    def _artifact(self, digest: str, problems: list[str]) -> Artifact | None:
        try:
            found = self.store.artifact(digest)
        except HybError as error:
            problems.append(error.message)
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append("its manifest is no manifest of OCI")
            return None
        absent = [f.path for f in found.files if not self.store.has_blob(f.blob)]
        if absent:
            problems.append(f"{len(absent)} of its files are not whole in the store: {', '.join(absent[:3])}")
        return found

    def _receipt(self, digest: str, problems: list[str]) -> _Said | None:
        """The newest valid receipt of an artifact; why others are not goes to `problems`."""
        valid: list[_Said] = []
        for found in self.referrers.get(digest, ()):
            if found.kind != "receipt":
                continue
            try:
                valid.append(_Said(found, receipts.read(self.store, found)))
            except HybError as error:
                problems.append(error.message)
        edited = [v for v in valid if not fits(v.statement)]
        problems += ["its receipt was edited: the parameters do not give the step's key" for _ in edited]
        return max(valid, key=lambda v: (intoto.metadata(v.statement, "finishedOn"), v.artifact.digest), default=None)

    def _signatures(self, digest: str, of: str) -> list[Signature]:
        found = [a for a in self.referrers.get(digest, ()) if a.kind == "signature"]
        return [Signature(_key(self.store, a), of, a.digest) for a in found]

    def _sources(self, statement: Mapping[str, Any], artifact: Artifact | None) -> tuple[Source, ...]:
        counts = row_counts(self.store, artifact) if self.rows and artifact and artifact.kind == "dataset" else {}
        found = []
        for d in intoto.sources(statement):
            pinned = str(d.get("annotations", {}).get("pinned", ""))
            if pinned and not d.get("digest"):  # an early receipt
                d = intoto.source(str(d["uri"]), pinned)[0]  # noqa: PLW2901
            name = str(d.get("name") or d["uri"])
            digest = next((f"{k}:{v}" for k, v in sorted(d.get("digest", {}).items(), reverse=True)), "")
            found.append(Source(name, str(d["uri"]), digest, _rows_of(name, counts)))
        return _with_folders(found)


def _behind(node: Node, walk: _Walk) -> Node:
    """The node, with a problem for each artifact that it names itself and that its receipt's chain does not reach."""
    if not node.receipt:
        return node
    reached, todo = set(), [d for _, d in node.inputs]
    while todo:
        digest = todo.pop()
        if digest not in reached and digest in walk.nodes:
            reached.add(digest)
            todo += [d for _, d in walk.nodes[digest].inputs]
    lost = sorted(walk.named[node.digest] - reached - {node.digest})
    if lost and node.stage == "pull":  # it came ready-made from another store, which can tell of these
        return replace(node, about=(*node.about, f"made elsewhere, of {', '.join(map(short, lost))}"))
    said = tuple(f"it names `{short(d)}`, from which its receipts do not lead to it" for d in lost)
    return replace(node, problems=(*node.problems, *said))


def fits(statement: Mapping[str, Any]) -> bool:
    """False when a receipt's parameters and inputs do not give its key, so that one of them was changed.

    True where that can't be told: another hyb made it, whose stages were others.
    """
    name, definition = intoto.stage(statement), statement["predicate"]["buildDefinition"]
    within = definition.get("internalParameters", {})
    if name not in stages.NAMES or not isinstance(within, dict):
        return True
    module = stages.load(name)
    if within.get("revision") != module.REVISION:
        return True
    known = {k: v for k, v in definition["externalParameters"].items() if k in module.Spec.model_fields}
    try:
        spec = module.Spec.model_validate(known)
        return key_of(spec, intoto.pins(statement), intoto.inputs(statement)) == within.get("key")
    except (ValidationError, KeyError, HybError):
        return False


def _named(artifact: Artifact) -> set[str]:
    """What an artifact names itself, by digest."""
    own = {v for k in OWN if isinstance(v := artifact.meta.get(k), str) and dg.is_digest(v)}
    if artifact.kind == "image":
        own.discard(str(artifact.meta.get("base")))  # that of a runnable image is an image from elsewhere
    return (own | {d for d in artifact.needs if dg.is_digest(d)}) - {artifact.digest}


def _about(artifact: Artifact | None) -> tuple[str, ...]:
    """A line or two on an artifact, from its facts."""
    if artifact is None:
        return ()
    m = artifact.meta
    says = {
        "model": lambda: [f"{m.get('name', '')} {m.get('format', '')} {m.get('quantization') or ''}"],
        "adapter": lambda: [f"LoRA, rank {m.get('rank')}, {m.get('quantize') or m.get('quantization') or ''}"],
        "dataset": lambda: [", ".join(f"{n} {k}" for k, n in mapping(m.get("counts")).items())],
        "report": lambda: [_scores(m)],
        "image": lambda: [f"{m.get('name', '')} {m.get('shape', '')}"],
        "service": lambda: [f"{m.get('name', '')}, port {m.get('port', '')}"],
        "link": lambda: [f"{m.get('routing_key')} to namespace {m.get('namespace')}"],
    }  # fmt: skip
    lines = says.get(artifact.kind, list)()
    lines += [f"licence {m['license']}"] if m.get("license") else []
    return tuple(line for line in (" ".join(str(x).split()) for x in lines) if line)


def _scores(meta: Mapping[str, Any]) -> str:
    shown = meta.get("perplexity") if "compares" in meta else meta.get("scores")
    scores = ", ".join(f"{k} {v}" for k, v in mapping(shown).items() if not str(k).endswith("_before"))
    return scores if "compares" in meta else f"{'passed' if meta.get('passed') else 'failed'}: {scores}"


def _key(store: Store, signature: Artifact) -> str:
    """The id of the key that a signature names; not checked."""
    if isinstance(said := signature.meta.get("key_id") or signature.meta.get("key"), str):
        return said
    for f in signature.files:
        try:
            bundle = json.loads(store.read(f.blob.digest))
            hint = str(bundle["verificationMaterial"]["publicKey"]["hint"])
            return f"sha256:{hint}" if dg.is_digest(f"sha256:{hint}") else hint
        except (HybError, ValueError, KeyError, TypeError):
            continue
    return "an unknown key"


# -- rows ----------------------------------------------------------------------------------------------------------


def row_counts(store: Store, data: Artifact) -> dict[str, dict[str, int]]:
    """File of origin → part → rows of a data set. {} when it can't be read whole."""
    found: dict[str, Counter[str]] = {}
    try:
        for part in PARTS:
            for row in _rows(store, data, part):
                found.setdefault(str(row["meta"]["source"]), Counter())[part] += 1
    except (HybError, OSError, ValueError, KeyError, TypeError):
        return {}
    return {source: dict(counts) for source, counts in sorted(found.items())}


def _rows(store: Store, data: Artifact, part: str) -> Iterable[dict[str, Any]]:
    blob = data.file(f"{part}.jsonl").blob
    store.check(blob)
    with store.blob_path(blob.digest).open("rb") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _rows_of(source: str, counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The rows that came from a file; rows of a folder's file name it from that folder on."""
    total: Counter[str] = Counter()
    for name, parts in counts.items():
        if source == name or source.endswith(f"/{name}"):
            total.update(parts)
    return dict(total)


def _with_folders(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Folders with the rows of all their files."""
    found = []
    for s in sources:
        total = Counter(s.rows)
        if s.digest.startswith(intoto.TREE):
            for other in sources:
                total.update(other.rows if other.name.startswith(f"{s.name.rstrip('/')}/") else {})
        found.append(replace(s, rows=dict(total)))
    return tuple(found)


@dataclass(frozen=True)
class Row:
    """One example: where it came from and which part it went to. `line`: of `source`, from 1; `digest`: of the row."""

    data: str
    part: str
    source: str
    line: int
    id: str
    digest: str
    text: str


def find_rows(store: Store, found: Lineage, wanted: str, most: int = 20) -> list[Row]:
    """The rows behind a lineage that are meant by `FILE:LINE`, by a row's id, or by a part of what they say.

    Raises HybError (exit 4) for a data set whose rows can't be read."""
    rows: list[Row] = []
    for node in found.nodes.values():
        if node.kind != "dataset":
            continue
        data = store.artifact(node.digest)
        try:
            for part in PARTS:
                meant = (_row(node.digest, part, raw) for raw in _rows(store, data, part) if _meant(raw, wanted))
                rows += itertools.islice(meant, most - len(rows))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HybError(f"the rows of `{node.title}` are not as hyb writes them ({type(error).__name__})",
                           hint="`hyb data` makes a data set", code=Exit.CHECK) from error  # fmt: skip
    return rows


def _meant(raw: Mapping[str, Any], wanted: str) -> bool:
    meta = raw["meta"]
    where = f"{meta.get('source', '')}:{meta.get('line', 0)}"
    spoken = json.dumps(raw, ensure_ascii=False)
    return wanted in (raw.get("id"), where) or _ends(where, wanted) or _ends(wanted, where) or wanted in spoken


def _ends(path: str, last: str) -> bool:
    return path.endswith(f"/{last}")


def _row(data: str, part: str, raw: Mapping[str, Any]) -> Row:
    messages = [m for m in raw.get("messages", ()) if m.get("role") != "system"]
    said = " → ".join(str(m.get("content", "")) for m in messages) or str(raw.get("text", ""))
    meta = raw.get("meta", {})
    return Row(data, part, str(meta.get("source", "")), int(meta.get("line", 0)), str(raw.get("id", "")),
               dg.of_json(raw), lineage.clean(said))  # fmt: skip
